//! Distance: a proxy that holds every octet back for a while in each direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use posthaste::clock::Clock;

use super::listen;

/// The port of a proxy before `port`.
pub(super) fn before(port: u16, delay: Duration) -> u16 {
    let near = listen(Ipv4Addr::LOCALHOST);
    let address = near.local_addr().expect("a bound socket");
    thread::spawn(move || {
        for stream in near.incoming().flatten() {
            hold_back(stream, SocketAddr::from((Ipv4Addr::LOCALHOST, port)), delay);
        }
    });
    address.port()
}

/// Both directions of a connection, each octet `delay` late.
fn hold_back(near: TcpStream, address: SocketAddr, delay: Duration) {
    let Ok(far) = TcpStream::connect(address) else {
        return;
    };
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
            return;
        };
        // The pipe of a connection: what is on its way.
        let (sender, receiver) = mpsc::sync_channel(65_536);
        let clock = Clock::start();
        thread::spawn(move || {
            let mut from = from;
            let mut buffer = vec![0; 65_536];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                let due = clock.instant() + delay;
                if sender.send((due, buffer[..len].to_vec())).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut to = to;
            let _ = to.set_nodelay(true);
            for (due, octets) in receiver {
                thread::sleep(due.saturating_duration_since(clock.instant()));
                if to.write_all(&octets).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
