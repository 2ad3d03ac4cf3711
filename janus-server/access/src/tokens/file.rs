//! The file with the keys (`token_keys`).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::key::{Algorithm, KeyError};
use super::keys::Keys;

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("token_keys = {file:?}: cannot read the file: {source}")]
    Unreadable {
        /// The path of the settings.
        file: PathBuf,
        /// The reason of the system.
        source: io::Error,
    },
    /// The file has no keys, or a key that cannot be used.
    #[error("token_keys = {file:?}: {error}")]
    Refused {
        /// The path of the settings.
        file: PathBuf,
        /// Why the file is refused.
        error: KeyError,
    },
}

#[derive(Debug)]
pub(super) struct KeyFile(PathBuf);

impl KeyFile {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads the file. Blocks.
    pub(super) fn read(&self) -> Result<Keys, KeyFileError> {
        let unreadable = |source| KeyFileError::Unreadable { file: self.0.clone(), source };
        let refused = |error| KeyFileError::Refused { file: self.0.clone(), error };
        let file = File::open(&self.0).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.permissions().mode();
        let mut text = Vec::new();
        let limit = Keys::MAX_BYTES as u64 + 1;
        file.take(limit).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() > Keys::MAX_BYTES {
            return Err(refused(KeyError::Malformed("the file has more than 256 KiB")));
        }
        let keys = Keys::parse(&text).map_err(refused)?;
        let is_readable_by_all = mode & 0o004 != 0;
        if is_readable_by_all && keys.iter().any(|key| key.algorithm() == Algorithm::Hs256) {
            log::warn!(
                "token_keys: every user of this machine can read the secret in {}; take the right away (chmod o-r)",
                self.0.display()
            );
        }
        Ok(keys)
    }
}
