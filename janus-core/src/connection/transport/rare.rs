//! What most connections never have, or have only until they are open.

use std::collections::VecDeque;
use std::sync::Arc;

use super::beginning::Preface;
use super::identity::Due;
use super::publishing::Run;
use super::whence::Arrival;
use crate::accounts::admission::AddressLimit;
use crate::connection::foreknown::Known;
use crate::hooks::{Identity, TlsClient};

/// The rare part of a Transport. Made when first needed, and given up by [`tidy`](Self::tidy): tens of thousands of idle
/// connections pay for a pointer.
#[derive(Default)]
pub(super) struct Seldom(Option<Box<Rare>>);

#[derive(Default)]
pub(super) struct Rare {
    /// What a connection needs to come back after it was passed on, as far as the first request has changed that.
    pub(super) arrival: Option<Box<Arrival>>,
    /// The result of the TLS handshake, until the hooks are asked about the client.
    pub(super) tls: Option<Box<TlsClient>>,
    /// The numbers of the latest topics from which the client has unsubscribed.
    #[expect(clippy::box_collection, reason = "a pointer is a quarter of a queue")]
    pub(super) left: Option<Box<VecDeque<u64>>>,
    /// For a client that names all topics at once, until the topics have been asked for.
    pub(super) preface: Option<Box<Preface>>,
    /// What is left to do for the client's identity, if anything.
    pub(super) due: Option<Box<Due>>,
    /// The limit of its address that the client is beyond, until the client is told.
    pub(super) excess: Option<AddressLimit>,
    /// The client's identity, until the client is served, if the identity was known before the connection.
    pub(super) known: Option<Known>,
    /// For a publisher, until the input at hand is decoded.
    pub(super) run: Option<Run>,
}

impl Seldom {
    /// The rare part, to be added to.
    pub(super) fn make(&mut self) -> &mut Rare {
        self.0.get_or_insert_default()
    }

    /// Gives up the memory once nothing is left.
    pub(super) fn tidy(&mut self) {
        let is_empty = |rare: &mut Box<Rare>| {
            let Rare { arrival, tls, left, preface, due, excess, known, run } = &**rare;
            arrival.is_none()
                && tls.is_none()
                && left.is_none()
                && preface.is_none()
                && due.is_none()
                && excess.is_none()
                && known.is_none()
                && run.is_none()
        };
        self.0.take_if(is_empty);
    }

    pub(super) fn preface(&self) -> Option<&Preface> {
        self.0.as_ref()?.preface.as_deref()
    }

    pub(super) fn preface_mut(&mut self) -> Option<&mut Preface> {
        self.0.as_mut()?.preface.as_deref_mut()
    }

    pub(super) fn forget_preface(&mut self) {
        if let Some(rare) = &mut self.0 {
            rare.preface = None;
        }
    }

    pub(super) fn due(&self) -> Option<&Due> {
        self.0.as_ref()?.due.as_deref()
    }

    pub(super) fn due_mut(&mut self) -> Option<&mut Due> {
        self.0.as_mut()?.due.as_deref_mut()
    }

    pub(super) fn forget_due(&mut self) {
        if let Some(rare) = &mut self.0 {
            rare.due = None;
        }
    }

    pub(super) fn tls(&self) -> Option<Box<TlsClient>> {
        self.0.as_ref()?.tls.clone()
    }

    pub(super) fn take_tls(&mut self) -> Option<Box<TlsClient>> {
        self.0.as_mut()?.tls.take()
    }

    /// The identity from before the connection, for a client that opens with or without a proof of its own.
    pub(super) fn take_known(&mut self, has_proof: bool) -> Option<Arc<Identity>> {
        match self.0.as_mut()?.known.take()? {
            Known::Final(identity) => Some(identity),
            Known::OfRequest(identity) => (!has_proof).then_some(identity),
        }
    }

    pub(super) fn take_arrival(&mut self) -> Option<Box<Arrival>> {
        self.0.as_mut()?.arrival.take()
    }

    pub(super) fn run_mut(&mut self) -> Option<&mut Run> {
        self.0.as_mut()?.run.as_mut()
    }

    pub(super) fn end_run(&mut self) {
        if let Some(rare) = &mut self.0 {
            rare.run = None;
        }
    }

    pub(super) fn take_excess(&mut self) -> Option<AddressLimit> {
        self.0.as_mut()?.excess.take()
    }
}
