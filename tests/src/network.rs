//! Ports and listeners of known behaviour on loopback. Knows nothing of who connects to them.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;

/// A TCP port of 127.0.0.1 that nobody listened on a moment ago. Somebody else may take it before it is used:
/// where the program can, let it choose (port 0) instead.
///
/// # Errors
/// If no port is free.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0))?.local_addr()?.port())
}

/// A listener that leaves each connection in the accept queue for a while, then accepts it and reads it to its
/// end. Stops when dropped.
#[derive(Debug)]
pub struct LateListener {
    /// Where it listens.
    pub address: SocketAddr,
    connected: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl LateListener {
    /// Listens on `address` (a port of 0 is chosen by the kernel); each connection announced by
    /// [`announce`](Self::announce) is accepted `delay` later.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn start(address: IpAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let (connected, announced) = channel();
        let thread = std::thread::spawn(move || serve(&listener, &announced, delay));
        Ok(Self { address, connected, thread: Some(thread) })
    }

    /// Says that one more connection stands in the queue, so that its delay begins now.
    pub fn announce(&self) {
        // The thread ends only when this sender is gone.
        let _ = self.connected.send(());
    }
}

impl Drop for LateListener {
    fn drop(&mut self) {
        let (closed, _) = channel();
        self.connected = closed;
        if let Some(thread) = self.thread.take() {
            // It can only have failed by losing its peer.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, announced: &Receiver<()>, delay: Duration) {
    while announced.recv().is_ok() {
        // The delay is the point here: it is what the accept queue must show.
        std::thread::sleep(delay);
        let Ok((mut connection, _)) = listener.accept() else { return };
        std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while connection.read(&mut bytes).is_ok_and(|length| length > 0) {}
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Instant};

    use super::*;

    #[test]
    fn a_free_port_can_be_bound() {
        TcpListener::bind(("127.0.0.1", free_port().unwrap())).unwrap();
    }

    #[test]
    fn the_late_listener_is_late() {
        for address in ["127.0.0.1", "::1"] {
            let delay = Duration::from_millis(60);
            let listener = LateListener::start(address.parse().unwrap(), delay).unwrap();
            let mut stream = TcpStream::connect(listener.address).unwrap();
            let connected = Instant::now();
            listener.announce();
            // The peer closes only after it has accepted and read to the end.
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            assert!(connected.elapsed() >= delay);
        }
    }
}
