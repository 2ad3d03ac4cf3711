//! The slots of all connections, and the counts that `max_connections`, `reserved_connections` and `max_refusals`
//! limit.

use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use super::Connections;
use super::guests::Guests;
use crate::accounts::Account;
use crate::config::Config;
use crate::delivery::{Slot, SlotIds};
use crate::session::Session;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable {
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    slots: Slab<Connected>,
    /// Connections with a place of `max_connections`.
    placed: usize,
    /// Places reserved for connections on their way into the table.
    reserved: usize,
    /// Connections without a place.
    guests: Guests,
    /// Connections being refused.
    refusals: usize,
}

/// What decides how much room there is for further connections.
pub(crate) struct Room<'a> {
    pub(crate) config: &'a Config,
    /// Whether memory is short: guests have `reserved_connections` alone, even if places are free.
    pub(crate) is_short: bool,
}

/// An open connection.
#[derive(Debug)]
struct Connected {
    slot: Arc<Slot>,
    /// Set once the client is served.
    session: Option<Arc<Session>>,
    standing: Standing,
}

/// The count to which a connection belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// With a place of `max_connections`.
    Placed,
    /// Without a place, see [`Guests`].
    Guest,
    /// Without a place, and among the `max_refusals` connections that stay open until the client has read why.
    Refused,
    /// About to be closed, and counted nowhere.
    Crowded,
}

impl ConnectionTable {
    /// Enters a connection without a place of `max_connections`; `make` makes the slot from a number and an index in
    /// the table. Returns the slot, and the guest to make room, if any; the caller must end the guest's connection.
    ///
    /// Under one lock: home arbiters that look for room at the same time would all find the last of the room.
    pub(crate) fn enter_guest(
        &self,
        ids: &SlotIds,
        room: &Room<'_>,
        make: impl FnOnce(u64, u32) -> Slot,
    ) -> (Arc<Slot>, Option<Arc<Slot>>) {
        let mut listed = self.listed.lock();
        let goes = if listed.room(room) == 0 { listed.crowd_out() } else { None };
        let slot = listed.enter(ids.next(), Standing::Guest, make);
        listed.guests.add(&slot);
        (slot, goes)
    }

    /// How many more connections there is room for.
    pub(crate) fn room(&self, room: &Room<'_>) -> usize {
        self.listed.lock().room(room)
    }

    /// Takes the first guest to go out of the count if a reserved place has taken the last of the room, as guests use
    /// free places; the caller must end the guest's connection.
    pub(crate) fn crowd_out_for_reserved(&self, config: &Config) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        let taken = listed.placed + listed.reserved + listed.guests.len();
        if taken > config.max_connections + config.reserved_connections { listed.crowd_out() } else { None }
    }

    /// As if a newcomer had found no room.
    #[cfg(test)]
    pub(crate) fn crowd_out(&self) -> Option<Arc<Slot>> {
        self.listed.lock().crowd_out()
    }

    /// Notes that a guest has published. Returns the guest to make room, if any; the caller must end the guest's
    /// connection.
    pub(crate) fn guest_has_published(&self, slot: &Slot, config: &Config) -> Option<Arc<Slot>> {
        let mut listed = self.listed.lock();
        // As all guests, publishing ones use free places while there are any.
        let free = config.max_connections.saturating_sub(listed.placed + listed.reserved);
        let goes = listed.guests.has_published(slot, config.reserved_connections.div_ceil(2) + free)?;
        listed.set_standing(&goes, Standing::Crowded);
        Some(goes)
    }

    /// Moves a connection to the account of the client's own address.
    pub(crate) fn move_to(&self, slot: &Arc<Slot>, account: Arc<Account>) {
        let mut listed = self.listed.lock();
        match listed.standing(slot) {
            // Guests are listed by address.
            Some(Standing::Guest) => listed.guests.move_to(slot, account),
            Some(Standing::Placed | Standing::Refused | Standing::Crowded) | None => slot.move_to(account),
        }
    }

    /// Counts a closing guest as a refusal and frees its room; false if `limit` connections are being refused already.
    pub(crate) fn begin_refusal(&self, slot: &Slot, limit: usize) -> bool {
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

    /// Notes the session of a connection. The session may change.
    pub(crate) fn set_session(&self, slot: &Arc<Slot>, session: &Arc<Session>) {
        let earlier = slot.place().and_then(|place| {
            let slots = &mut self.listed.lock().slots;
            let connected = slots.get_mut(place as usize).filter(|other| Arc::ptr_eq(&other.slot, slot))?;
            connected.session.replace(Arc::clone(session))
        });
        // Without the lock: this may drop the last reference to a topic.
        drop(earlier);
    }

    /// The session of a connection whose client is served.
    pub(crate) fn session(&self, slot: &Slot) -> Option<Arc<Session>> {
        let slots = &self.listed.lock().slots;
        slots.get(slot.place()? as usize).filter(|other| other.slot.id == slot.id)?.session.clone()
    }

    pub(crate) fn remove(&self, slot: &Arc<Slot>) {
        let Some(place) = slot.place().map(|place| place as usize) else { return };
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

    /// How many connections are open, without the connections being refused.
    pub(crate) fn len(&self) -> usize {
        let listed = self.listed.lock();
        listed.placed + listed.guests.len()
    }

    /// How many places of `max_connections` are taken.
    pub(crate) fn placed(&self) -> usize {
        let listed = self.listed.lock();
        listed.placed + listed.reserved
    }

    /// Whether one of this many places is free.
    pub(crate) fn has_place(&self, max_connections: usize) -> bool {
        self.listed.lock().has_place(max_connections)
    }

    /// How many connections there are, open or on their way into the table.
    pub(crate) fn all(&self) -> usize {
        let listed = self.listed.lock();
        listed.slots.len() + listed.reserved
    }

    /// Calls `visit` with the connections in `places`; false if the table ends before or with `places`.
    pub(crate) fn visit(&self, places: std::ops::Range<usize>, mut visit: impl FnMut(&Arc<Slot>)) -> bool {
        self.visit_with_session(places, |slot, _| visit(slot))
    }

    /// As [`visit`](Self::visit), with the session of each client that is served.
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
    fn room(&self, Room { config, is_short }: &Room<'_>) -> usize {
        let Config { max_connections, reserved_connections, .. } = **config;
        let guests = self.guests.len();
        let room = (max_connections + reserved_connections).saturating_sub(self.placed + self.reserved + guests);
        if *is_short { room.min(reserved_connections.saturating_sub(guests)) } else { room }
    }

    fn crowd_out(&mut self) -> Option<Arc<Slot>> {
        let slot = self.guests.take_first()?;
        self.set_standing(&slot, Standing::Crowded);
        Some(slot)
    }

    fn has_place(&self, max_connections: usize) -> bool {
        self.placed + self.reserved < max_connections
    }

    fn enter(&mut self, id: u64, standing: Standing, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let entry = self.slots.vacant_entry();
        let slot = Arc::new(make(id, u32::try_from(entry.key()).expect("fewer clients than 2^32")));
        Arc::clone(&entry.insert(Connected { slot, session: None, standing }).slot)
    }

    fn entry(&mut self, slot: &Slot) -> Option<&mut Connected> {
        self.slots.get_mut(slot.place()? as usize).filter(|other| std::ptr::eq(&*other.slot, slot))
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

/// A place of `max_connections`, for a connection on its way into the table from any thread, or for a guest in the
/// table. Dropping an unused reservation gives the place back.
pub(crate) struct Reservation {
    shared: Arc<Connections>,
    /// Whether a connection has the place by now.
    used: bool,
    /// The number of the connection, once anything has asked for the number.
    number: Option<u64>,
}

impl Reservation {
    /// Reserves a place, unless all `max_connections` are taken.
    pub(crate) fn new(shared: &Arc<Connections>) -> Option<Self> {
        let mut listed = shared.table.listed.lock();
        if !listed.has_place(shared.config().max_connections) {
            return None;
        }
        listed.reserved += 1;
        Some(Self { shared: Arc::clone(shared), used: false, number: None })
    }

    /// The number that the connection will have, for questions before there is a connection.
    pub(crate) fn number(&mut self) -> u64 {
        *self.number.get_or_insert_with(|| self.shared.slot_ids.next())
    }

    /// Enters a connection; `make` makes the slot from a number, never used again, and an index in the table.
    pub(crate) fn enter(mut self, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
        let number = self.number();
        let mut listed = self.shared.table.listed.lock();
        let slot = listed.enter(number, Standing::Placed, make);
        // Under one lock, or the connection would count twice for a moment.
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
