//! `GET /api/events`: the answers of other routes, once a second, as server-sent events.
//!
//! A view that several streams show is answered once for all of them, and the event is shared. A client that does not
//! read misses seconds: a stream takes the latest event of each view when the client has taken the events before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use janus_api::{Room, bad_request};
use janus_core::wire::HttpError;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};

use super::routes::to_json;
use super::streams::{self, Kept};
use super::views::{Looks, View, Viewer};
use super::{Api, Incoming, Lines, SMALL_BYTES};

/// Views of one stream.
pub(super) const MAX_VIEWS: usize = 8;

/// Bytes of a view in a query. The events name the view.
const MAX_VIEW_BYTES: usize = 8 * 1024;

/// The views of all streams, each once.
#[derive(Debug)]
pub(super) struct Shown {
    viewer: Viewer,
    /// Room for large answers.
    answers: Room,
    views: Mutex<Views>,
    /// Wakes the task for a view that has no event yet.
    is_new: Notify,
    /// Changes with each event.
    events: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Views {
    by_text: HashMap<String, Weak<Showing>>,
    /// Views so far.
    begun: u64,
    is_running: bool,
}

/// A view that streams show.
#[derive(Debug)]
struct Showing {
    /// As the client has asked for it.
    text: String,
    view: View,
    /// Rises with each view: views are answered in the order in which they were asked for.
    number: u64,
    /// The latest event, with a number that differs from those of earlier events; 0 for none.
    latest: Mutex<(u64, Bytes)>,
}

impl Showing {
    fn latest(&self) -> MutexGuard<'_, (u64, Bytes)> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    pub(super) fn new(viewer: Viewer, answers: Room) -> Self {
        let (views, is_new, events) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Self { viewer, answers, views, is_new, events }
    }

    fn views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view of this text, from now on answered once a second until it is dropped.
    fn show(self: &Arc<Self>, text: &str, view: &View) -> Arc<Showing> {
        let mut views = self.views();
        if let Some(showing) = views.by_text.get(text).and_then(Weak::upgrade) {
            return showing;
        }
        views.begun += 1;
        let (text, latest, number) = (text.to_owned(), Mutex::new((0, Bytes::new())), views.begun);
        let showing = Arc::new(Showing { text: text.clone(), view: view.clone(), number, latest });
        views.by_text.insert(text, Arc::downgrade(&showing));
        self.is_new.notify_one();
        if !views.is_running {
            views.is_running = true;
            tokio::spawn(Arc::clone(self).answer());
        }
        showing
    }

    /// Answers all views once a second, behind the sample of the second, and new views at once; until there is none.
    async fn answer(self: Arc<Self>) {
        let mut seconds = self.viewer.live().seconds();
        let mut number = 0;
        loop {
            let is_second = tokio::select! {
                second = seconds.changed() => match second {
                    Ok(()) => true,
                    // The server is gone.
                    Err(_) => return,
                },
                () = self.is_new.notified() => false,
            };
            let Some(showing) = self.showing() else { return };
            for showing in showing.iter().filter(|showing| is_second || showing.latest().0 == 0) {
                let event = self.event_of(showing).await;
                number += 1;
                *showing.latest() = (number, event);
                self.events.send_replace(number);
            }
        }
    }

    /// The views that are shown; `None` once there is none, and then the caller ends.
    fn showing(&self) -> Option<Vec<Arc<Showing>>> {
        let mut views = self.views();
        views.by_text.retain(|_, showing| showing.strong_count() > 0);
        let mut showing: Vec<_> = views.by_text.values().filter_map(Weak::upgrade).collect();
        // The figures take no time, and need not wait for a walk through a million topics.
        showing.sort_by_key(|showing| (!matches!(showing.view, View::Stats(_)), showing.number));
        views.is_running = !showing.is_empty();
        views.is_running.then_some(showing)
    }

    async fn event_of(&self, Showing { text, view, .. }: &Showing) -> Bytes {
        let answer = self.viewer.answer(view, Looks::EverySecond).await;
        let event = answer.and_then(|answer| match event(text, Ok(&answer)) {
            event if event.len() <= SMALL_BYTES => Ok(event.into()),
            event => self.answers.take(event),
        });
        event.unwrap_or_else(|error| self::event(text, Err(&error)).into())
    }
}

/// A server-sent event. JSON has no line breaks but those that a text escapes.
fn event(text: &str, answer: Result<&[u8], &HttpError>) -> Vec<u8> {
    let name = text.split('?').next().unwrap_or_default();
    let mut event = format!("event: {name}\ndata: {{\"view\":").into_bytes();
    event.extend(to_json(&text));
    match answer {
        Ok(answer) => {
            event.extend_from_slice(b",\"answer\":");
            event.extend_from_slice(answer);
        }
        Err(error) => {
            event.extend_from_slice(b",\"error\":");
            event.extend(to_json(&serde_json::json!({"code": error.code, "message": error.message})));
        }
    }
    event.extend_from_slice(b"}\n\n");
    event
}

impl Api {
    /// Begins a stream of views, and puts the place of the stream into `place`.
    pub(super) fn events(
        &self,
        request: &Request<Incoming>,
        kept: Kept,
    ) -> Result<(Response<Lines>, Option<OwnedSemaphorePermit>), HttpError> {
        let views = views(request.uri().query().unwrap_or_default())?;
        let (sender, response) = streams::response(views.len());
        if request.method() == Method::HEAD {
            return Ok((response, None));
        }
        let place = self.streams.take()?;
        let showing = views.iter().map(|(text, view)| self.shown.show(text, view)).collect();
        tokio::spawn(pump(showing, self.shown.events.subscribe(), kept, sender));
        Ok((response, Some(place)))
    }
}

/// Sends the latest event of each view whenever the client has taken the events before.
async fn pump(
    showing: Vec<Arc<Showing>>,
    mut events: watch::Receiver<u64>,
    mut kept: Kept,
    sender: mpsc::Sender<Bytes>,
) {
    let mut sent = vec![0; showing.len()];
    // A view that others show already has an event.
    events.mark_changed();
    let last = loop {
        let room = tokio::select! {
            room = async {
                // Without a sender, the server is gone.
                events.changed().await.ok()?;
                sender.reserve_many(showing.len()).await.ok()
            } => room,
            last = kept.over() => break last,
            () = sender.closed() => return,
        };
        let Some(mut room) = room else { return };
        if let Err(last) = kept.check() {
            drop(room);
            break last;
        }
        events.mark_unchanged();
        for (showing, sent) in showing.iter().zip(&mut sent) {
            let (number, event) = showing.latest().clone();
            if number != *sent {
                *sent = number;
                if let Some(permit) = room.next() {
                    permit.send(event);
                }
            }
        }
    };
    drop(showing);
    // A client that reads gets the last event; the stream of another ends with its connection.
    let _ = sender.send(last).await;
}

/// The views of a query.
fn views(query: &str) -> Result<Vec<(String, View)>, HttpError> {
    let mut views: Vec<(String, View)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "view" {
            return Err(bad_request(format!(
                "the query: expected only view, up to {MAX_VIEWS} times; encode the query of a view, as in \
                 view=topics%3Fsort%3Drate%26limit%3D50"
            )));
        }
        if views.len() == MAX_VIEWS {
            return Err(bad_request(format!("view: at most {MAX_VIEWS} views in a stream")));
        }
        if value.len() > MAX_VIEW_BYTES {
            return Err(bad_request(format!("view: longer than {MAX_VIEW_BYTES} bytes")));
        }
        if views.iter().any(|(text, _)| *text == value) {
            return Err(bad_request(format!("view: duplicate view {value}; name it once")));
        }
        let (route, query) = value.split_once('?').unwrap_or((&value, ""));
        let view = View::of(route, query)?;
        if view.is_text() {
            return Err(bad_request("view: an event stream has no text; omit format=text"));
        }
        views.push((value.into_owned(), view));
    }
    if views.is_empty() {
        views.push(("stats".to_owned(), View::of("stats", "")?));
    }
    Ok(views)
}
