//! The listening sockets of the process: bound by itself, or taken over from the one before.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Config;
use crate::runtime::Listener;
use crate::telemetry::log;

use super::handover::Taken;
use super::{Predecessor, StartError, system};

/// All of them, on one address.
pub(super) struct Sockets {
    pub(super) address: SocketAddr,
    /// At least one.
    pub(super) listeners: Vec<TcpListener>,
    /// The process before, if it waits to be succeeded.
    taken: Option<Taken>,
}

impl Sockets {
    /// At least one for each worker.
    pub(super) fn of(
        predecessor: Option<Predecessor>,
        config: &Config,
        worker_count: usize,
    ) -> Result<Self, StartError> {
        let server = &config.server;
        match predecessor {
            None => {
                let address = SocketAddr::new(server.host, server.port);
                if server.port != 0 {
                    // Another router of the same user could be joined, and would lose half of its clients.
                    Listener::check_free(address)
                        .map_err(system(&format!("listen on {address}")))?;
                }
                let first = bind(address)?;
                let mut sockets = Self {
                    // A port of 0 was picked just now.
                    address: first
                        .local_addr()
                        .map_err(system("read the listening address"))?,
                    listeners: vec![first],
                    taken: None,
                };
                while sockets.listeners.len() < worker_count {
                    sockets.listeners.push(bind(sockets.address)?);
                }
                Ok(sockets)
            }
            Some(Predecessor(mut taken)) => {
                if !taken.suits(&server.data_dir, server.host, server.port) {
                    return Err(StartError::Config(CHANGED_MEANWHILE.to_owned()));
                }
                let mut sockets = Self {
                    address: taken.address,
                    listeners: std::mem::take(&mut taken.listeners),
                    taken: Some(taken),
                };
                sockets.add_up_to(worker_count)?;
                Ok(sockets)
            }
        }
    }

    /// A share for each worker. There may be more sockets than workers: each of them has connections
    /// waiting, so none may be left without somebody who accepts from it.
    pub(super) fn shares(&self, worker_count: usize) -> Result<Vec<Vec<TcpListener>>, StartError> {
        let mut shares: Vec<Vec<TcpListener>> = Vec::new();
        shares.resize_with(worker_count, Vec::new);
        for (listener, worker) in self.listeners.iter().zip((0..worker_count).cycle()) {
            let own = listener
                .try_clone()
                .map_err(system("share a listening socket"))?;
            if let Some(share) = shares.get_mut(worker) {
                share.push(own);
            }
        }
        Ok(shares)
    }

    /// Has the process before leave, if there is one: from now on this one accepts.
    pub(super) fn succeed(&mut self) -> Result<(), StartError> {
        match self.taken.take() {
            Some(taken) => taken.ready().map_err(StartError::Config)?,
            None => return Ok(()),
        }
        // Not before: connections would come at once, and nobody accepts them in the meantime. The process
        // before has left, so one that is refused must not end this one.
        self.listeners.retain(|socket| {
            let listening = Listener::listen(socket);
            if let Err(error) = &listening {
                log::error(format_args!("a worker cannot listen: {error}"));
            }
            listening.is_ok()
        });
        Ok(())
    }

    /// More sockets on the same port where this process has more workers than the one before; they do not
    /// listen yet. Where it may not bind any more, two workers share one.
    fn add_up_to(&mut self, worker_count: usize) -> Result<(), StartError> {
        let before = self.listeners.len();
        while self.listeners.len() < worker_count {
            let added = Listener::reserve(self.address).or_else(|error| {
                log::info(format_args!(
                    "workers share listening sockets, no further one can be bound: {error}"
                ));
                let shared = self.listeners.get(self.listeners.len() % before.max(1));
                shared.map_or(Err(error), TcpListener::try_clone)
            });
            self.listeners
                .push(added.map_err(system("share a listening socket"))?);
        }
        Ok(())
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound: io::Result<TcpListener> = Listener::bind(address);
    bound.map_err(system(&format!("listen on {address}")))
}

const CHANGED_MEANWHILE: &str =
    "server.host, server.port or server.data_dir was changed while this process started";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket() {
        let mut config = Config::default();
        config.server.host = "127.0.0.1".parse().unwrap();
        config.server.port = 0;
        let mut sockets = Sockets::of(None, &config, 3).unwrap();
        assert_eq!(sockets.listeners.len(), 3);
        for (workers, shares) in [(1, vec![3]), (2, vec![2, 1]), (3, vec![1, 1, 1])] {
            let counts: Vec<usize> = sockets
                .shares(workers)
                .unwrap()
                .iter()
                .map(Vec::len)
                .collect();
            assert_eq!(counts, shares);
        }
        sockets.add_up_to(5).unwrap();
        assert_eq!(sockets.listeners.len(), 5);
        let address = sockets.address;
        let on_it = |listener: &TcpListener| listener.local_addr().unwrap() == address;
        assert!(sockets.listeners.iter().all(on_it));
    }
}
