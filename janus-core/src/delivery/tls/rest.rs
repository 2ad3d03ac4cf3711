//! The encrypted bytes that the kernel has refused, and the account of a session's memory.
//!
//! The ledger has the refused bytes as queued output of the client, and a fixed price for the session. Both are given
//! back by the drop, however a connection ends.

use std::sync::Arc;

use crate::delivery::Ledger;

/// Refused bytes; without memory on the heap while there are none.
#[derive(Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    /// `None` until the connection has a slot.
    ledger: Option<Arc<Ledger>>,
}

impl Rest {
    /// Accounts for the session from now on. A session stays in the ledger of its first instance.
    pub(super) fn account_to(&mut self, ledger: &Arc<Ledger>) {
        if self.ledger.is_none() {
            ledger.add_tls_session();
            ledger.add_queued(self.bytes.len());
            self.ledger = Some(Arc::clone(ledger));
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.change(|rest| rest.extend_from_slice(bytes));
    }

    pub(super) fn remove_first(&mut self, length: usize) {
        self.change(|rest| remove_first(rest, length));
    }

    pub(super) fn clear(&mut self) {
        self.change(|rest| *rest = Vec::new());
    }

    /// Lets `change` append bytes, or take some away, and accounts for the difference.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.bytes.len();
        let result = change(&mut self.bytes);
        let after = self.bytes.len();
        if let Some(ledger) = self.ledger.as_ref().filter(|_| before != after) {
            ledger.add_queued(after);
            ledger.remove_queued(before);
        }
        result
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.remove_queued(self.bytes.len());
            ledger.remove_tls_session();
        }
    }
}

/// Removes bytes from the front; gives the memory back with the last byte.
pub(super) fn remove_first(bytes: &mut Vec<u8>, length: usize) {
    if length == bytes.len() {
        *bytes = Vec::new();
    } else {
        bytes.drain(..length);
    }
}
