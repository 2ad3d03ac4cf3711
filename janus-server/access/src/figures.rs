//! The figures of this crate: each struct of them is a table, from which an export comes as well.

/// Makes a struct of figures and its `metrics`. A row has the form `name: type = kind`, with the kinds `counter` and
/// `gauge`; behind the kind may stand the name of the family in an export, `as family`, or
/// `as family { label = "value" }` for one of several series. The families of several series come first, each with a
/// text: `family = "text"`.
///
/// The text of a row is its documentation, and the help text of an export: plain prose without links.
macro_rules! figures {
    (
        $(#[$meta:meta])*
        pub struct $Stats:ident {
            $($head:ident = $about:literal;)*
            $($(#[doc = $text:literal])+ $name:ident: $type:ty = $kind:ident $(as $family:ident $({ $label:ident = $value:literal })?)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct $Stats {
            $($(#[doc = $text])+ pub $name: $type,)+
        }

        impl $Stats {
            /// All figures as data, for [`MetricFamily::of`](janus_core::MetricFamily::of).
            pub fn metrics(&self) -> impl Iterator<Item = janus_core::Metric> + use<> {
                let figures = [$({
                    let text = concat!($($text),+).trim_ascii();
                    let figure = janus_core::Metric::new(
                        figures!(@family $name $($family)?), figures!(@kind $kind), text, self.$name as u64,
                    );
                    $($(let figure = figure.labelled(stringify!($family), stringify!($label), $value);)?)?
                    figure
                },)+];
                let heads = [$({
                    let series = figures.iter().filter(|figure| figure.family == stringify!($head));
                    let sum = series.map(|figure| figure.value).sum();
                    janus_core::Metric::new(stringify!($head), janus_core::MetricKind::Counter, $about, sum)
                },)*];
                heads.into_iter().chain(figures)
            }
        }
    };
    (@kind counter) => { janus_core::MetricKind::Counter };
    (@kind gauge) => { janus_core::MetricKind::Gauge };
    (@family $name:ident) => { stringify!($name) };
    (@family $name:ident $family:ident) => { stringify!($family) };
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use janus_core::{Metric, MetricFamily};

    use crate::tokens::TokenStats;
    use crate::{AskStats, WebhookStats};

    #[test]
    fn the_figures_of_a_family_stand_under_its_text_with_different_labels() {
        let figures: [Vec<Metric>; 3] = [
            TokenStats { verified: 3, expired: 2, ..TokenStats::default() }.metrics().collect(),
            AskStats::default().metrics().collect(),
            WebhookStats::default().metrics().collect(),
        ];
        for figures in &figures {
            for family in MetricFamily::of(figures.clone()) {
                assert!(family.text.ends_with('.') && !family.text.contains("  "), "{family:?}");
                let labels: HashSet<_> = family.series.iter().map(|series| series.labels.clone()).collect();
                assert_eq!(labels.len(), family.series.len(), "{family:?}");
                let members = figures.iter().filter(|figure| figure.family == family.name && figure.label.is_some());
                let heads = figures.iter().filter(|figure| figure.family == family.name && figure.label.is_none());
                assert_eq!(heads.count(), 1, "{family:?}");
                assert_ne!(members.count(), 1, "{family:?}");
            }
        }
        assert_eq!((figures[0][0].name, figures[0][0].value), ("tokens", 5), "the sum of the series");
    }
}
