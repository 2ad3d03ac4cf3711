//! The slots of all connections, and the counts that `max_connections`, `reserved_connections` and `max_refusals` limit.

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use super::Connections;
use super::guests::Guests;
use crate::config::Config;
use crate::delivery::{Slot, SlotIds};
use crate::session::Session;

/// The slots of all connections, and the counts that `max_connections`, `reserved_connections` and `max_refusals` limit.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    slots: Slab<Connected>,
    /// Connections that have a place of `max_connections`.
    placed: usize,
    /// Such places of connections that are on their way into the table.
    reserved: usize,
    /// Connections that have none.
    guests: Guests,
    /// Connections that are being refused.
    refusals: usize,
}

/// An open connection.
#[derive(Debug)]
struct Connected {
    slot: Arc<Slot>,
    /// Once it is served.
    session: Option<Arc<Session>>,
    standing: Standing,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has a place of `max_connections`.
    Placed,
    /// It has none, see [`Guests`].
    Guest,
    /// It has none, and is among the `max_refusals` that may wait until they have read why.
    Refused,
    /// It counts as nothing, because it is about to be closed.
    Crowded,
}

impl ConnectionTable {
    /// Enters a connection without a place of `max_connections`, made by `make` from its number and its place in the table.
    pub(crate) fn enter_guest(&self, ids: &SlotIds, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let mut listed = self.listed.lock();
        let slot = listed.enter(ids.next(), Standing::Guest, make);
        listed.guests.add(&slot);
        slot
    }

    /// How many more connections there is room for; `is_short` says that guests must not use the places of others.
    pub(crate) fn room(&self, config: &Config, is_short: bool) -> usize {
        let Config { max_connections, reserved_connections, .. } = *config;
        let listed = self.listed.lock();
        let guests = listed.guests.len();
        let room = (max_connections + reserved_connections).saturating_sub(listed.placed + listed.reserved + guests);
        if is_short { room.min(reserved_connections.saturating_sub(guests)) } else { room }
    }

    /// Takes the guest out of the count that is to go first; the caller must end it.
    pub(crate) fn crowd_out(&self) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        let slot = listed.guests.take_first()?;
        listed.set_standing(&slot, Standing::Crowded);
        Some(slot)
    }

    /// Notes that a guest has published. The guest that has to go for it must be ended by the caller.
    pub(crate) fn guest_has_published(&self, slot: &Slot, config: &Config) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        let goes = listed.guests.has_published(slot, config.reserved_connections.div_ceil(2))?;
        listed.set_standing(&goes, Standing::Crowded);
        Some(goes)
    }

    /// Has a connection that closes be no guest any more; false if it is one still, or counts as nothing, because `limit`
    /// connections are being refused.
    pub(crate) fn leave(&self, slot: &Slot, limit: usize) -> bool {
        let mut listed = self.listed.lock();
        match listed.standing(slot) {
            Some(Standing::Guest | Standing::Crowded) if listed.refusals < limit => {
                listed.guests.remove(slot);
                listed.refusals += 1;
                listed.set_standing(slot, Standing::Refused);
                true
            }
            Some(Standing::Guest | Standing::Crowded) => false,
            Some(Standing::Placed | Standing::Refused) | None => true,
        }
    }

    /// Notes the session of a connection, which may change.
    pub(crate) fn set_session(&self, slot: &Arc<Slot>, session: &Arc<Session>) {
        let earlier = slot.place.and_then(|place| {
            let slots = &mut self.listed.lock().slots;
            let connected = slots.get_mut(place as usize).filter(|other| Arc::ptr_eq(&other.slot, slot))?;
            connected.session.replace(Arc::clone(session))
        });
        // Without the lock: it may be the last to hold a topic.
        drop(earlier);
    }

    /// The session of a connection, if it is served.
    pub(crate) fn session(&self, slot: &Slot) -> Option<Arc<Session>> {
        let slots = &self.listed.lock().slots;
        slots.get(slot.place? as usize).filter(|other| other.slot.id == slot.id)?.session.clone()
    }

    pub(crate) fn remove(&self, slot: &Arc<Slot>) {
        let Some(place) = slot.place.map(|place| place as usize) else { return };
        let removed = {
            let mut listed = self.listed.lock();
            let standing = listed.standing(slot);
            match standing {
                Some(Standing::Placed) => listed.placed -= 1,
                Some(Standing::Guest) => listed.guests.remove(slot),
                Some(Standing::Refused) => listed.refusals -= 1,
                Some(Standing::Crowded) | None => {}
            }
            standing.map(|_| listed.slots.remove(place))
        };
        drop(removed);
    }

    /// How many connections are open that are not being refused.
    pub(crate) fn len(&self) -> usize {
        let listed = self.listed.lock();
        listed.placed + listed.guests.len()
    }

    /// How many connections there are: all that are open, and those on their way.
    pub(crate) fn all(&self) -> usize {
        let listed = self.listed.lock();
        listed.slots.len() + listed.reserved
    }

    /// Shows `visit` the connections in `places`; false once there are none so far up in the table.
    pub(crate) fn visit(&self, places: std::ops::Range<usize>, mut visit: impl FnMut(&Arc<Slot>)) -> bool {
        self.visit_with_session(places, |slot, _| visit(slot))
    }

    /// The same, with the session of each connection that is served.
    pub(crate) fn visit_with_session(
        &self,
        places: std::ops::Range<usize>,
        mut visit: impl FnMut(&Arc<Slot>, Option<&Arc<Session>>),
    ) -> bool {
        let slots = &self.listed.lock().slots;
        let more = places.end < slots.capacity();
        let places = places.start..places.end.min(slots.capacity());
        let connected = places.filter_map(|place| slots.get(place));
        connected.for_each(|connected| visit(&connected.slot, connected.session.as_ref()));
        more
    }
}

impl Listed {
    fn enter(&mut self, id: u64, standing: Standing, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let entry = self.slots.vacant_entry();
        let slot = Arc::new(make(id, u32::try_from(entry.key()).expect("fewer clients than 2^32")));
        Arc::clone(&entry.insert(Connected { slot, session: None, standing }).slot)
    }

    fn entry(&mut self, slot: &Slot) -> Option<&mut Connected> {
        self.slots.get_mut(slot.place? as usize).filter(|other| std::ptr::eq(&*other.slot, slot))
    }

    fn standing(&mut self, slot: &Slot) -> Option<Standing> {
        self.entry(slot).map(|connected| connected.standing)
    }

    fn set_standing(&mut self, slot: &Slot, standing: Standing) {
        if let Some(connected) = self.entry(slot) {
            connected.standing = standing;
        }
    }
}

/// A place of `max_connections` for a connection that is on its way into the table, from whatever thread, or in it without one;
/// it is given back with a connection that never arrives.
pub(crate) struct Reservation {
    shared: Arc<Connections>,
    /// Whether the place is the connection's own by now.
    used: bool,
}

impl Reservation {
    /// Takes a place, unless `max_connections` are taken.
    pub(crate) fn new(shared: &Arc<Connections>) -> Option<Self> {
        let mut listed = shared.table.listed.lock();
        if listed.placed + listed.reserved >= shared.config.max_connections {
            return None;
        }
        listed.reserved += 1;
        Some(Self { shared: Arc::clone(shared), used: false })
    }

    /// Enters a connection made by `make` from its number, which is never used again, and its place in the table.
    pub(crate) fn enter(mut self, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let connections = &self.shared.table;
        let mut listed = connections.listed.lock();
        let slot = listed.enter(self.shared.slot_ids.next(), Standing::Placed, make);
        // In one go, or the connection would count twice for a moment.
        listed.reserved -= 1;
        listed.placed += 1;
        drop(listed);
        self.used = true;
        slot
    }

    /// Gives the place to a guest.
    pub(crate) fn give_to(mut self, slot: &Slot) {
        let mut listed = self.shared.table.listed.lock();
        if let Some(Standing::Guest | Standing::Crowded) = listed.standing(slot) {
            listed.guests.remove(slot);
            listed.set_standing(slot, Standing::Placed);
            listed.reserved -= 1;
            listed.placed += 1;
            self.used = true;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.used {
            self.shared.table.listed.lock().reserved -= 1;
        }
    }
}
