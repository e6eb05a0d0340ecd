//! A TCP link that can be cut, and whose connections can be frozen: a network for one client, as a proxy on loopback.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, PartialEq)]
struct State {
    cut: bool,
    /// Connections with a number below carry nothing any more and stay open.
    frozen: usize,
}

/// Forwards connections to a port of loopback.
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    accepted: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Link {
    /// A link to `port`.
    ///
    /// # Panics
    /// If loopback cannot be listened on.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, states) = watch::channel(State { cut: false, frozen: 0 });
        let (count, accepted) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = *count.borrow();
                count.send_replace(number + 1);
                tokio::spawn(carry(client, port, number, states.clone()));
            }
        });
        Self { address, state, accepted, task }
    }

    /// What to connect to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all connections and every new one.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Lets new connections through again.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.cut = false);
    }

    /// Leaves the connections of now open without carrying anything more; new ones work.
    pub fn freeze(&self) {
        let frozen = self.connections();
        self.state.send_modify(|state| state.frozen = frozen);
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.accepted.borrow()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(mut client: TcpStream, port: u16, number: usize, states: watch::Receiver<State>) {
    let carrying = async {
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            () = reached(&states, |state| number < state.frozen) => {}
        }
        // Both ends stay open until the link is cut.
        std::future::pending().await
    };
    tokio::select! {
        () = carrying => {}
        () = reached(&states, |state| state.cut) => {}
    }
}

async fn reached(states: &watch::Receiver<State>, wanted: impl Fn(&State) -> bool) {
    // Whoever drops the link needs its connections no longer.
    let _ = states.clone().wait_for(wanted).await;
}
