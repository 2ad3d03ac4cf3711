//! How long questions to hooks take, by hook and result.

use std::time::Duration;

use crate::ground::histogram::{Distribution, Histogram};

macro_rules! names {
    ($(#[doc = $about:literal])+ $type:ident { $($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $type {
            $($(#[doc = $doc])+ $name,)+
        }

        impl $type {
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

names! {
    /// A hook with a question.
    Question {
        /// The identity of a client.
        Authenticate = "authenticate",
        /// The identity of a client from now on.
        Refresh = "refresh",
        /// Whether a client may subscribe.
        AuthorizeSubscribe = "authorize_subscribe",
        /// Whether a client may publish.
        AuthorizePublish = "authorize_publish",
    }
}

names! {
    /// The fate of a question.
    Verdict {
        /// The hook has said yes.
        Allowed = "allowed",
        /// The hook has said no.
        Denied = "denied",
        /// No answer came within `hook_timeout`.
        TimedOut = "timed_out",
        /// The hook has panicked, or its runtime has ended.
        Failed = "failed",
    }
}

/// The time of each question, the wait for a place among `max_hook_questions` included.
#[derive(Debug, Default)]
pub(crate) struct HookTimes([[Histogram; Verdict::ALL.len()]; Question::ALL.len()]);

impl HookTimes {
    pub(super) fn record(&self, question: Question, verdict: Verdict, time: Duration) {
        self.0[question as usize][verdict as usize].record(time);
    }

    /// The times of all questions asked so far, by hook and result.
    pub(crate) fn read(&self) -> impl Iterator<Item = (Question, Verdict, Distribution)> {
        Question::ALL.iter().zip(&self.0).flat_map(|(question, times)| {
            let times = Verdict::ALL.iter().zip(times).map(|(verdict, times)| (*question, *verdict, times.read()));
            times.filter(|(.., times)| times.count() > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_and_result_has_its_own_times() {
        let times = HookTimes::default();
        assert_eq!(times.read().count(), 0);
        times.record(Question::Refresh, Verdict::TimedOut, Duration::from_secs(5));
        times.record(Question::Refresh, Verdict::TimedOut, Duration::from_secs(5));
        times.record(Question::AuthorizePublish, Verdict::Allowed, Duration::ZERO);
        let read: Vec<_> = times.read().map(|(hook, verdict, times)| (hook, verdict, times.count())).collect();
        let expected = [(Question::Refresh, Verdict::TimedOut, 2), (Question::AuthorizePublish, Verdict::Allowed, 1)];
        assert_eq!(read, expected);
    }
}
