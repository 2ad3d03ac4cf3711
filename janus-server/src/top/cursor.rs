//! The place of a reader in a list that changes while it is read: the selection stays with the entry, wherever the
//! entry moves, so that a key never hits an entry that has just taken the place of another.

/// A movement by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
}

/// The selected entry, by its name, and the first visible row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor<K> {
    selected: Option<K>,
    /// The first visible row.
    pub(super) offset: usize,
}

// Derived, `Default` would ask for a default name.
impl<K> Default for Cursor<K> {
    fn default() -> Self {
        Self { selected: None, offset: 0 }
    }
}

impl<K: Clone + PartialEq> Cursor<K> {
    pub(super) fn selected(&self) -> Option<&K> {
        self.selected.as_ref()
    }

    /// The row of the selected entry.
    pub(super) fn row(&self, names: &[K]) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        names.iter().position(|name| name == selected)
    }

    /// Moves the selection. The first movement selects the first visible entry, or the last of the list.
    pub(super) fn step(&mut self, step: Step, names: &[K], page: usize) {
        let Some(last) = names.len().checked_sub(1) else { return };
        let row = match (step, self.row(names)) {
            (Step::First, _) => 0,
            (Step::Last, _) => last,
            (_, None) => self.offset,
            (Step::Up, Some(row)) => row.saturating_sub(1),
            (Step::Down, Some(row)) => row + 1,
            (Step::PageUp, Some(row)) => row.saturating_sub(page),
            (Step::PageDown, Some(row)) => row + page,
        };
        self.selected = names.get(row.min(last)).cloned();
        self.settle(names, page);
    }

    /// Takes the selection back, and returns to the beginning of the list.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps the selected entry on a page of this many rows after a change of the list or of the page. An entry that
    /// has left the list is no longer selected.
    pub(super) fn settle(&mut self, names: &[K], page: usize) {
        let row = self.row(names);
        if row.is_none() {
            self.selected = None;
        }
        let page = page.max(1);
        self.offset = self.offset.min(names.len().saturating_sub(page));
        if let Some(row) = row {
            self.offset = self.offset.clamp((row + 1).saturating_sub(page), row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [u32; 10] = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

    #[test]
    fn the_selection_moves_within_the_list_and_the_page_follows() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.selected(), None, "nothing is selected before the first movement");
        let expected = [
            (Step::Down, 10, 0),
            (Step::Up, 10, 0),
            (Step::PageDown, 14, 1),
            (Step::PageDown, 18, 5),
            (Step::PageDown, 19, 6),
            (Step::Down, 19, 6),
            (Step::Up, 18, 6),
            (Step::PageUp, 14, 4),
            (Step::First, 10, 0),
            (Step::Last, 19, 6),
        ];
        for (step, selected, offset) in expected {
            cursor.step(step, &NAMES, 4);
            assert_eq!((cursor.selected(), cursor.offset), (Some(&selected), offset), "{step:?}");
        }
    }

    #[test]
    fn the_selection_stays_with_an_entry_that_moves_and_ends_with_an_entry_that_leaves() {
        let mut cursor = Cursor::default();
        cursor.step(Step::Last, &NAMES, 4);
        let sorted: Vec<u32> = NAMES.into_iter().rev().collect();
        cursor.settle(&sorted, 4);
        assert_eq!((cursor.selected(), cursor.offset), (Some(&19), 0));
        cursor.settle(&sorted[1..], 4);
        assert_eq!((cursor.selected(), cursor.offset), (None, 0));
    }

    #[test]
    fn an_empty_list_has_nothing_to_select() {
        let mut cursor = Cursor::<u32>::default();
        for step in [Step::Down, Step::Last, Step::PageUp] {
            cursor.step(step, &[], 4);
            assert_eq!((cursor.selected(), cursor.offset), (None, 0));
        }
    }
}
