//! The looks of the parts of the screen, with and without colours.

use ratatui::style::{Color, Modifier, Style};

/// Whether there are colours. Without them, weight and reversal alone set parts of the screen apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) has_colours: bool,
}

impl Look {
    /// Colours, unless the variable `NO_COLOR` has a value (<https://no-color.org>).
    pub(super) fn of_the_environment() -> Self {
        Self { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn coloured(self, color: Color, otherwise: Modifier) -> Style {
        if self.has_colours { Style::new().fg(color) } else { Style::new().add_modifier(otherwise) }
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn quiet(self) -> Style {
        self.coloured(Color::DarkGray, Modifier::DIM)
    }

    pub(super) fn bar(self) -> Style {
        self.coloured(Color::Cyan, Modifier::empty())
    }

    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green, Modifier::empty())
    }

    pub(super) fn warning(self) -> Style {
        self.coloured(Color::Yellow, Modifier::BOLD)
    }

    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The line of the titles of a list.
    pub(super) fn titles(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }
}
