//! The numbers of topics, left in a file by a drained server and continued by the next server.
//!
//! A stale file would be worse than none: a number given to two messages hides one of them from a client that resumes.
//! So a file is used once and removed before any message is numbered; a server that crashes leaves none; and a file
//! from long ago, out of a backup or an image of a machine, is not used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use janus_core::Handover;
use janus_core::supervision::in_words;
use serde::{Deserialize, Serialize};

use crate::logging::counted;

/// A restart takes seconds, and a machine some minutes. An older file may be a copy.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// How far in the future the time of a file may lie, for a clock that has been set back a little.
const MAX_SKEW: Duration = Duration::from_secs(60);

/// Some hundred bytes for each of a million topics.
const MAX_BYTES: u64 = 256 << 20;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Milliseconds since 1970.
    written: u64,
    handover: Handover,
}

/// Why a file of state is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a file of state: {0}")]
    Json(#[from] serde_json::Error),
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("written by another version of Janus")]
    Version,
    #[error("written {} ago, and what is older than {} may be a copy", in_words(.0), in_words(MAX_AGE))]
    Old(Duration),
    #[error("written in the future: has the clock been set back?")]
    Future,
}

/// Takes the state out of the file, and removes the file. Without a usable file topics begin afresh, and the log says
/// so.
pub(crate) fn take(file: &Path) -> Option<Handover> {
    match try_take(file, SystemTime::now()) {
        Ok((handover, age)) => {
            log::info!(
                "continuing {} of the last server, which ended {} ago",
                counted(handover.len(), "topic"),
                in_words(age)
            );
            Some(handover)
        }
        Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            log::info!("no state of an earlier server in {}: all topics begin afresh", file.display());
            None
        }
        Err(error) => {
            log::warn!("state_file {} not used, all topics begin afresh: {error}", file.display());
            None
        }
    }
}

fn try_take(file: &Path, now: SystemTime) -> Result<(Handover, Duration), Unusable> {
    let taken = beside(file, ".taken");
    // With two servers for the same file, only the first finds the file.
    fs::rename(file, &taken)?;
    let read = File::open(&taken);
    fs::remove_file(&taken)?;
    // A file that comes back after a power failure would be used twice.
    sync_folder(file)?;
    let read = read?;
    if read.metadata()?.len() > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    let Content { version, written, handover } = serde_json::from_reader(BufReader::new(read.take(MAX_BYTES)))?;
    if version != VERSION {
        return Err(Unusable::Version);
    }
    let written = UNIX_EPOCH + Duration::from_millis(written);
    match now.duration_since(written) {
        Ok(age) if age > MAX_AGE => Err(Unusable::Old(age)),
        Ok(age) => Ok((handover, age)),
        Err(error) if error.duration() > MAX_SKEW => Err(Unusable::Future),
        Err(_) => Ok((handover, Duration::ZERO)),
    }
}

/// Leaves the state in the file, whole or not at all.
pub(crate) fn leave(file: &Path, handover: Handover) {
    let topics = handover.len();
    match try_leave(file, handover, SystemTime::now()) {
        Ok(()) => log::info!("left the state of {topics} topics in {}", file.display()),
        Err(error) => {
            log::warn!(
                "cannot write state_file {}, so the next server begins all topics afresh: {error}",
                file.display()
            );
        }
    }
}

fn try_leave(file: &Path, handover: Handover, now: SystemTime) -> io::Result<()> {
    let written = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let content = Content { version: VERSION, written: u64::try_from(written).unwrap_or(u64::MAX), handover };
    let new = beside(file, ".new");
    let outcome = write(&new, &serde_json::to_vec(&content)?)
        .and_then(|()| fs::rename(&new, file))
        .and_then(|()| sync_folder(file));
    if outcome.is_err() {
        let _ = fs::remove_file(&new);
    }
    outcome
}

fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    // A file left by a killed server may have other rights.
    let _ = fs::remove_file(file);
    // Names of topics may be confidential.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Has the disk know of the names in the folder of a file.
fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

/// Warns at the start, and not only at the end, if the file cannot be written.
pub(crate) fn check(file: &Path) {
    let new = beside(file, ".new");
    if let Err(error) = write(&new, b"").and_then(|()| fs::remove_file(&new)) {
        log::warn!(
            "state_file {} cannot be written, so the next restart loses the place of each client: {error}",
            file.display()
        );
    }
}

/// The path of a file in the same folder.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn later(millis: u64) -> SystemTime {
        NOW + Duration::from_millis(millis)
    }

    fn handover() -> Handover {
        serde_json::from_str(r#"{"passes":9,"topics":[["news","9f86d081884c7d65",41,7,null,false]]}"#).unwrap()
    }

    #[test]
    fn state_is_used_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        check(&file);
        try_leave(&file, handover(), NOW).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let (taken, age) = try_take(&file, later(1_500)).unwrap();
        assert_eq!((taken, age), (handover(), Duration::from_millis(1_500)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left behind");
        assert!(
            matches!(try_take(&file, later(1_500)), Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn state_of_another_time_is_not_used_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        let hour = 3_600_000;
        let outcome = |written, now| {
            try_leave(&file, handover(), later(written)).unwrap();
            let outcome = try_take(&file, later(now)).map(|(_, age)| age).map_err(|error| error.to_string());
            assert!(!file.exists());
            outcome
        };
        assert_eq!(outcome(0, hour), Ok(Duration::from_secs(3_600)));
        assert!(outcome(0, hour + 1).unwrap_err().contains("may be a copy"));
        assert_eq!(outcome(60_000, 0), Ok(Duration::ZERO));
        assert!(outcome(60_001, 0).unwrap_err().contains("in the future"));
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        try_leave(&file, handover(), NOW).unwrap();
        let whole = fs::read_to_string(&file).unwrap();
        let damaged = [&whole[..whole.len() - 1], "", "{}", &whole.replace("\"version\":1", "\"version\":2"), "\0\0"];
        for text in damaged {
            fs::write(&file, text).unwrap();
            assert!(try_take(&file, NOW).is_err(), "{text}");
            assert!(!file.exists(), "{text}");
        }
    }

    #[test]
    fn a_folder_without_room_for_the_file_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("missing/state");
        assert!(try_leave(&file, handover(), NOW).is_err());
        fs::create_dir_all(&file).unwrap();
        fs::write(file.join("occupied"), "").unwrap();
        assert!(try_leave(&file, handover(), NOW).is_err(), "a folder has the name");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
