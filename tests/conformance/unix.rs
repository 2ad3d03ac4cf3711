//! A custom listener: clients of the classic protocol over a Unix socket.

use std::io;
use std::os::unix::net::UnixListener as Socket;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use janus_core::conformance::{Carrier, Check, ClassicClient, Connecting, Suite};
use janus_core::wire::classic::Classic;
use janus_core::{Incoming, Janus, Listener};
use tokio::net::{UnixListener, UnixStream};

use super::assert_skips_only;

struct Unix {
    socket: Socket,
    registered: Option<UnixListener>,
}

impl Listener for Unix {
    fn start(&mut self) -> io::Result<()> {
        self.registered = Some(UnixListener::from_std(self.socket.try_clone()?)?);
        Ok(())
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let Some(listener) = &self.registered else { return Poll::Pending };
        let (stream, _) = ready!(listener.poll_accept(cx))?;
        Poll::Ready(Ok(Incoming::unix(stream)))
    }
}

#[tokio::test]
async fn a_custom_listener_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = AtomicU32::new(0);
    let path = folder.path().to_owned();
    let unix = Carrier::own("unix", move |builder, codec| {
        let path = path.join(sockets.fetch_add(1, Ordering::Relaxed).to_string());
        let socket = Socket::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let builder = builder.listener(Unix { socket, registered: None }, codec);
        let connect = move |_: &Janus| -> Connecting {
            let path = path.clone();
            Box::pin(async move { Ok(Box::pin(UnixStream::connect(path).await?) as _) })
        };
        (builder, Box::new(connect))
    });
    let report = Suite::new(Classic, ClassicClient).carrier(unix).run().await;
    assert_skips_only(&report, &[Check::Gaps, Check::ConnectionCrash]);
}
