//! The values of the setting `io_uring`.

/// Whether deliveries to many subscribers are sent through io_uring, many with one system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IoUring {
    /// Where the system allows it. A line in the log tells the choice and the reason.
    #[default]
    Auto,
    /// Always. The start fails if the system does not allow it.
    On,
    /// Never: one system call for each send.
    Off,
}

names!(IoUring as "io_uring": Auto = "auto", On = "on", Off = "off");
