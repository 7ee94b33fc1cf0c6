//! A listening port with its connections, which can go away and come back.
//!
//! Owns: the socket and the tasks behind it. Invariants: for all of the gate's life its port is reserved by a bound
//! socket that does not listen, so that while it is away peers are refused and nobody else gets the port; when
//! [`Gate::shut`] returns, all tasks of the gate have ended. Must not know: what is spoken on the connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that wait in the kernel.
const BACKLOG: u32 = 1024;

/// Serves one connection until its end; dropped when the gate shuts.
pub(crate) type Serve =
    Arc<dyn Fn(TcpStream, SocketAddr) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// One port.
pub(crate) struct Gate {
    addr: SocketAddr,
    serve: Serve,
    state: Mutex<State>,
    _reserved: TcpSocket,
}

enum State {
    Open { life: CancellationToken, tasks: TaskTracker },
    Away,
    Shut,
}

impl Gate {
    /// Binds `addr` (port 0: any) and serves from now on.
    pub(crate) fn open(addr: SocketAddr, serve: Serve) -> io::Result<Self> {
        if addr.port() != 0 {
            // A port that is shared with another process of ours would go unnoticed: see `bound`.
            drop(std::net::TcpListener::bind(addr)?);
        }
        let reserved = bound(addr)?;
        let addr = reserved.local_addr()?;
        let state = Mutex::new(listen(addr, &serve)?);
        Ok(Self { addr, serve, state, _reserved: reserved })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening and drops all connections; the port stays reserved.
    pub(crate) async fn go_away(&self) {
        let mut state = self.state.lock().await;
        if let State::Open { life, tasks } = &*state {
            end(life, tasks).await;
            *state = State::Away;
        }
    }

    /// Listens again on the same port.
    pub(crate) async fn come_back(&self) -> io::Result<()> {
        let mut state = self.state.lock().await;
        if let State::Away = &*state {
            *state = listen(self.addr, &self.serve)?;
        }
        Ok(())
    }

    /// Ends for good.
    pub(crate) async fn shut(&self) {
        let mut state = self.state.lock().await;
        if let State::Open { life, tasks } = &*state {
            end(life, tasks).await;
        }
        *state = State::Shut;
    }
}

impl Drop for Gate {
    /// A gate that is dropped without [`Gate::shut`] ends its tasks too, only later.
    fn drop(&mut self) {
        if let State::Open { life, .. } = self.state.get_mut() {
            life.cancel();
        }
    }
}

async fn end(life: &CancellationToken, tasks: &TaskTracker) {
    life.cancel();
    tasks.close();
    tasks.wait().await;
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the port's earlier life may still be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    // One socket of ours holds the port, another listens on it: only those that listen get connections.
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

fn listen(addr: SocketAddr, serve: &Serve) -> io::Result<State> {
    let listener = bound(addr)?.listen(BACKLOG)?;
    let (life, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(accept(listener, Arc::clone(serve), life.clone(), tasks.clone()));
    Ok(State::Open { life, tasks })
}

async fn accept(listener: TcpListener, serve: Serve, life: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = life.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Dispositions are small and must not wait for more (RFC 896).
                let _ = stream.set_nodelay(true);
                let life = life.clone();
                let served = serve(stream, peer);
                tasks.spawn(async move {
                    tokio::select! {
                        () = life.cancelled() => {}
                        () = served => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed; trying again");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
