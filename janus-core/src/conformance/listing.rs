//! The list of the checks of a suite: an enum whose variants name the checks, and the function of each.

/// Takes the documentation of the enum, the error of a check, and the checks. A `Stage` must be in scope.
macro_rules! checks {
    ($about:literal, $stop:ty; $($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $run:expr;)+) => {
        #[doc = $about]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Check {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Check {
            /// All checks, in running order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the report.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            async fn stand(self, stage: &Stage<'_>) -> Result<(), $stop> {
                match self { $(Self::$variant => $run(stage).await),+ }
            }
        }
    };
}
