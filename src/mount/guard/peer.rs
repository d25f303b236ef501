//! Who may connect: the kernel, and programs of root such as mount.nfs. An app must not be able to speak NFS here, where
//! it could write with any credential it likes.
//!
//! The kernel's NFS client uses a reserved source port (below 1024) unless mounted `noresvport`, but that alone proves
//! little: containers are often started with `net.ipv4.ip_unprivileged_port_start=0`, and mount.nfs pings the server from
//! an ordinary port. The kernel knows the owner of either end of a loopback connection, so that is asked first.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Ports below this one need `CAP_NET_BIND_SERVICE` (IPPORT_RESERVED in netinet/in.h).
const RESERVED: u16 = 1024;

/// Times the table is read before a connection counts as not in it: it can change while it is read.
const READS: usize = 3;

/// What is known of the process at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Uid(u32),
    /// The table has no such connection: it has ended already, or was made in another way than the kernel does it.
    Nobody,
    /// There is no table to look at.
    Unknown,
}

/// Whether a connection from `peer` to `local` may be served.
pub(super) fn may_connect(peer: SocketAddr, local: SocketAddr) -> bool {
    let (SocketAddr::V4(peer), SocketAddr::V4(local)) = (peer, local) else {
        return false;
    };
    let look = || std::fs::read_to_string("/proc/net/tcp").map_or(Owner::Unknown, |table| owner(&table, peer, local));
    let found = (0..READS).map(|_| look()).find(|owner| *owner != Owner::Nobody);
    allowed(peer, found.unwrap_or(Owner::Nobody))
}

fn allowed(peer: SocketAddrV4, owner: Owner) -> bool {
    *peer.ip() == Ipv4Addr::LOCALHOST
        && match owner {
            Owner::Uid(uid) => uid == 0,
            Owner::Nobody => false,
            Owner::Unknown => peer.port() < RESERVED,
        }
}

/// Finds the owner of the other end in /proc/net/tcp (proc_pid_net(5)). Only while that end is established: a socket that
/// has been closed is shown as root's.
fn owner(table: &str, peer: SocketAddrV4, local: SocketAddrV4) -> Owner {
    const ESTABLISHED: &str = "01";
    let (from, to) = (in_table(peer), in_table(local));
    table
        .lines()
        .find_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let ends = (fields.next()?, fields.next()?);
            let state = fields.next()?;
            if ends != (from.as_str(), to.as_str()) || state != ESTABLISHED {
                return None;
            }
            // Queues, timer and retransmissions come before the uid.
            fields.nth(3)?.parse().ok().map(Owner::Uid)
        })
        .unwrap_or(Owner::Nobody)
}

/// An address as the table writes it: the address as a number in this machine's byte order, and the port, in hexadecimal.
fn in_table(address: SocketAddrV4) -> String {
    format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(address.ip().octets()),
        address.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 0 100 0 0 10 0
   1: 0100007F:0316 0100007F:0BE9 01 00000000:00000000 00:00000000 00000000     0        0 18 1 0 20 4 30 10 -1
   2: 0100007F:9C40 0100007F:0BE9 01 00000000:00000000 00:00000000 00000000  1000        0 19 1 0 20 4 30 10 -1
   3: 0100007F:9C41 0100007F:0BE9 06 00000000:00000000 03:000007D0 00000000     0        0 0 3 0
   4: 0100007F:0BE9 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 20 1 0 20 4 30 10 -1
";

    fn local(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn the_owner_is_that_of_the_other_end_while_it_is_established() {
        let owner = |port| owner(TABLE, local(port), local(3049));
        assert_eq!(owner(790), Owner::Uid(0));
        assert_eq!(owner(40_000), Owner::Uid(1000));
        assert_eq!(owner(40_001), Owner::Nobody, "closed: the uid shown is nobody's");
        assert_eq!(owner(40_002), Owner::Nobody);
    }

    #[test]
    fn only_root_and_the_kernel_may_connect() {
        assert!(allowed(local(790), Owner::Uid(0)));
        assert!(
            allowed(local(40_000), Owner::Uid(0)),
            "mount.nfs pings from an ordinary port"
        );
        assert!(
            !allowed(local(790), Owner::Uid(1000)),
            "reserved ports are free to all in some containers"
        );
        assert!(!allowed(local(40_000), Owner::Uid(1000)));
        assert!(!allowed(local(790), Owner::Nobody));
        assert!(allowed(local(790), Owner::Unknown));
        assert!(!allowed(local(40_000), Owner::Unknown));
        assert!(!allowed(
            SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 790),
            Owner::Uid(0)
        ));
    }
}
