//! How the pieces of an instance reach the kernel: through the io_uring of the serving thread, or with a system call
//! for each send.
//!
//! An instance decides once, at its start, after a trial on the running kernel. A thread makes its ring at its start, so that
//! the number of descriptors does not grow later, and keeps the ring until its own end. A thread whose ring cannot be made, or fails later,
//! continues without one.

#[cfg(target_os = "linux")]
use std::cell::RefCell;
#[cfg(target_os = "linux")]
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_os = "linux")]
use super::pass::PIECE;
#[cfg(target_os = "linux")]
use super::ring::Ring;
use crate::config::{ConfigError, IoUring};

/// See the module's documentation. The default is without rings.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    through_rings: bool,
    /// Why the system does not allow rings, if they were wanted.
    refused: Option<String>,
    /// Threads that continued without a ring.
    threads_without: AtomicUsize,
}

impl Sending {
    /// The way for this setting on this system.
    ///
    /// # Errors
    ///
    /// The setting is `on`, and the system does not allow io_uring.
    pub(crate) fn choose(setting: IoUring) -> Result<Self, ConfigError> {
        match setting {
            IoUring::Off => Ok(Self::default()),
            IoUring::Auto | IoUring::On => Self::after(trial(), setting),
        }
    }

    fn after(tried: Result<(), String>, setting: IoUring) -> Result<Self, ConfigError> {
        match tried {
            Err(why) if setting == IoUring::On => Err(ConfigError {
                key: "io_uring".into(),
                value: format!("\"{setting}\""),
                expected: format!("\"auto\" or \"off\" on this system: {why}").into(),
            }),
            tried => Ok(Self { through_rings: tried.is_ok(), refused: tried.err(), ..Self::default() }),
        }
    }

    /// Tells the log.
    pub(crate) fn tell(&self) {
        match &self.refused {
            _ if self.through_rings => log::info!("io_uring is in use: many sends share a system call"),
            Some(why) => log::info!("io_uring is not in use, each send is a system call: {why}"),
            None => log::info!("io_uring is not in use, each send is a system call: the setting io_uring is \"off\""),
        }
    }

    /// Whether pieces go through rings.
    pub(crate) fn is_through_rings(&self) -> bool {
        self.through_rings
    }

    /// How many threads have continued without a ring, contrary to the choice for the instance.
    pub(crate) fn threads_without(&self) -> usize {
        self.threads_without.load(Ordering::Relaxed)
    }

    /// Makes the ring of this thread, if rings are wanted.
    pub(crate) fn prepare_thread(&self) {
        #[cfg(target_os = "linux")]
        let _ = self.with_ring(|_| ());
    }

    /// Lends the ring of this thread; `None` if there is none, or none is wanted.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(super) fn with_ring<T>(&self, send: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        if !self.through_rings {
            return None;
        }
        OWN_RING.with(|own| {
            let own = &mut *own.try_borrow_mut().ok()?;
            if matches!(own, OwnRing::NotMade) {
                *own = match Ring::new(PIECE) {
                    Ok(ring) => OwnRing::Made(Box::new(ring)),
                    Err(error) => self.do_without(&error.to_string()),
                };
            }
            let OwnRing::Made(ring) = own else { return None };
            if ring.is_broken() {
                *own = self.do_without(&ring.refusal());
                return None;
            }
            Some(send(ring))
        })
    }

    #[cfg(target_os = "linux")]
    #[cold]
    fn do_without(&self, why: &str) -> OwnRing {
        self.threads_without.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread");
        log::warn!(thread = name, error = why; "{name} continues without io_uring, with a system call for each send: {why}");
        OwnRing::None
    }
}

#[cfg(target_os = "linux")]
enum OwnRing {
    NotMade,
    Made(Box<Ring>),
    None,
}

#[cfg(target_os = "linux")]
thread_local! {
    static OWN_RING: RefCell<OwnRing> = const { RefCell::new(OwnRing::NotMade) };
}

/// Makes a ring and sends through it.
///
/// # Errors
///
/// In words for operators: why io_uring cannot be used.
#[cfg(target_os = "linux")]
fn trial() -> Result<(), String> {
    Ring::try_out().map_err(|error| reason(&error))
}

#[cfg(target_os = "linux")]
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!("forbidden by sysctl kernel.io_uring_disabled, or by a container's seccomp filter ({error})")
        }
        Some(libc::ENOSYS) => format!("the kernel has no io_uring, or a container's seccomp filter hides it ({error})"),
        Some(libc::EINVAL) => format!("the kernel is older than 6.1 ({error})"),
        _ => error.to_string(),
    }
}

#[cfg(not(target_os = "linux"))]
fn trial() -> Result<(), String> {
    Err("only Linux has io_uring".to_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_told_what_forbids_io_uring() {
        for (error, word) in
            [(libc::EPERM, "sysctl"), (libc::ENOSYS, "seccomp"), (libc::EINVAL, "6.1"), (libc::EMFILE, "open")]
        {
            let reason = reason(&io::Error::from_raw_os_error(error));
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_only_for_an_operator_who_insists() {
        let refusal = || Err("forbidden".to_owned());
        let auto = Sending::after(refusal(), IoUring::Auto).unwrap();
        assert_eq!((auto.is_through_rings(), auto.refused.as_deref()), (false, Some("forbidden")));
        let error = Sending::after(refusal(), IoUring::On).unwrap_err().to_string();
        assert_eq!(error, "io_uring = \"on\": expected \"auto\" or \"off\" on this system: forbidden");
        for setting in [IoUring::Auto, IoUring::On] {
            assert!(Sending::after(Ok(()), setting).unwrap().is_through_rings());
        }
    }

    #[test]
    fn a_thread_without_a_ring_does_without_it_for_good() {
        let sending = Sending { through_rings: true, ..Sending::default() };
        OWN_RING.set(sending.do_without("a test"));
        assert_eq!([sending.with_ring(|_| ()), sending.with_ring(|_| ())], [None, None]);
        assert_eq!(sending.threads_without(), 1);
    }

    #[test]
    fn without_the_wish_for_rings_none_is_made() {
        let sending = Sending::choose(IoUring::Off).unwrap();
        assert_eq!((sending.is_through_rings(), sending.with_ring(|_| ())), (false, None));
        OWN_RING.with_borrow(|own| assert!(matches!(own, OwnRing::NotMade)));
    }
}
