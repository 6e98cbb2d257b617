//! The control messages of a datagram: udp(7), ip(7) and ipv6(7). By them the kernel and this program tell
//! each other which own address a message has, and how long the datagrams in a joined message are.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for all three control messages at once.
// SAFETY: it only computes.
const ROOM: usize = unsafe {
    libc::CMSG_SPACE(mem::size_of::<libc::c_int>() as u32)
        + libc::CMSG_SPACE(mem::size_of::<libc::in_pktinfo>() as u32)
        + libc::CMSG_SPACE(mem::size_of::<libc::in6_pktinfo>() as u32)
} as usize;

/// Room for the control messages of one message, aligned as the kernel's headers are.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Control {
    header: libc::cmsghdr,
    bytes: [u8; ROOM],
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM] };

    /// The control messages of the message that is received with `header` are written here.
    pub(super) fn listen(&mut self, header: &mut libc::msghdr) {
        header.msg_control = (&raw mut *self).cast();
        header.msg_controllen = ROOM as _;
    }

    /// The message that is sent with `header` leaves from the address `from`, if there is one. It is cut up
    /// into datagrams of `segment` bytes (UDP_SEGMENT), if there is a segment.
    pub(super) fn tell(
        &mut self,
        header: &mut libc::msghdr,
        from: Option<IpAddr>,
        segment: Option<u16>,
    ) {
        if from.is_none() && segment.is_none() {
            return;
        }
        self.listen(header);
        let mut used = 0;
        match from {
            Some(IpAddr::V4(ip)) => {
                let spec_dst = libc::in_addr { s_addr: u32::from(ip).to_be() };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: spec_dst,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                used += self.put(used, libc::SOL_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) => {
                let addr = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: addr, ipi6_ifindex: 0 };
                used += self.put(used, libc::SOL_IPV6, libc::IPV6_PKTINFO, info);
            }
            None => {}
        }
        if let Some(segment) = segment {
            used += self.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        header.msg_controllen = used as _;
    }

    /// Writes one control message at offset `at`, behind the others. Returns its length.
    fn put<T: Copy>(&mut self, at: usize, level: i32, kind: i32, value: T) -> usize {
        let size = mem::size_of::<T>() as u32;
        // SAFETY: these only compute.
        let (length, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        assert!(at + space as usize <= ROOM, "there is room for each of them once");
        // SAFETY: `at` is a sum of CMSG_SPACEs, so a header there is aligned, and the whole message is
        // within the room.
        unsafe {
            let header = (&raw mut *self).cast::<u8>().add(at).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        space as usize
    }
}

/// What the kernel tells of a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// The length of the datagrams in a joined message (UDP_GRO). 0: the message is one datagram.
    pub(super) joined: usize,
    /// The own address from which an answer must leave: the address at which the message arrived. `None`: the
    /// socket has only one address, or the kernel chooses better, as for an IPv6 group.
    pub(super) own: Option<IpAddr>,
    /// The message went to a group or to a broadcast address, and so to each socket that shares the port.
    pub(super) to_group: bool,
}

impl Told {
    /// Reads what [`Control::listen`] received. A control message that is shorter than its kind is ignored.
    /// The kernel cuts the last one short if there is no room for it.
    pub(super) fn of(header: &libc::msghdr) -> Self {
        let mut told = Self::default();
        let end = header.msg_control as usize + header.msg_controllen;
        // SAFETY: the kernel has said how long the control messages are that it has written.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !at.is_null() {
            // SAFETY: a header that these macros give is a whole one within the control messages.
            let (level, kind) = unsafe { ((*at).cmsg_level, (*at).cmsg_type) };
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // SAFETY: as above, and an int may be any bytes.
                    if let Some(joined) = unsafe { data::<libc::c_int>(at, end) } {
                        told.joined = usize::try_from(joined).unwrap_or(0);
                    }
                }
                // This is not the destination itself, which may be a broadcast address.
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    // SAFETY: as above, and these are numbers.
                    if let Some(info) = unsafe { data::<libc::in_pktinfo>(at, end) } {
                        let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                        told.to_group |= info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr;
                        told.own = Some(ip).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4);
                    }
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    // SAFETY: as above, and these are numbers.
                    if let Some(info) = unsafe { data::<libc::in6_pktinfo>(at, end) } {
                        let came_to = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                        told.to_group |= came_to.is_multicast();
                        told.own = told.own.or(answering(came_to));
                    }
                }
                _ => {}
            }
            // SAFETY: as above.
            if unsafe { (*at).cmsg_len } > end - at as usize {
                break; // no header follows, and the macro uses the length unchecked
            }
            // SAFETY: `at` is one of the headers of this message.
            at = unsafe { libc::CMSG_NXTHDR(header, at) };
        }
        told
    }
}

/// The data of the control message at `at`, if it is complete. `end` is where the control messages end.
///
/// # Safety
/// `at` is a whole header within the control messages, and `T` may be any bytes.
unsafe fn data<T: Copy>(at: *const libc::cmsghdr, end: usize) -> Option<T> {
    // SAFETY: this only computes.
    let least = unsafe { libc::CMSG_LEN(mem::size_of::<T>() as u32) } as usize;
    // SAFETY: it is a whole header, as the caller says.
    let length = unsafe { (*at).cmsg_len };
    if length < least || (at as usize).saturating_add(least) > end {
        return None;
    }
    // SAFETY: the data lies within the control messages, as has just been seen.
    Some(unsafe { libc::CMSG_DATA(at).cast::<T>().read_unaligned() })
}

/// The address from which to answer a message to `came_to`. For a link-local address the kernel chooses, by
/// the peer's address.
fn answering(came_to: Ipv6Addr) -> Option<IpAddr> {
    let is_ours = !came_to.is_multicast()
        && !came_to.is_unicast_link_local()
        && !came_to.is_unspecified()
        && came_to.to_ipv4_mapped().is_none();
    is_ours.then_some(IpAddr::V6(came_to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_told_is_read_again() {
        let joined = 1472;
        for own in ["127.0.0.9".parse().unwrap(), "2001:db8::7".parse().unwrap()] {
            // SAFETY: plain data for which zero is valid.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            let mut control = Control::EMPTY;
            control.tell(&mut header, Some(own), Some(joined));
            let used = header.msg_controllen;
            // The kernel's value is an int, under an option number of its own.
            control.put(used, libc::SOL_UDP, libc::UDP_GRO, libc::c_int::from(joined));
            header.msg_controllen = ROOM.min(used + 24) as _;
            // A control message for a send has no destination beside the own address.
            let to_group = own.is_ipv4();
            assert_eq!(Told::of(&header), Told { joined: joined.into(), own: Some(own), to_group });
        }
    }

    #[test]
    fn nothing_told_is_no_control_message() {
        // SAFETY: plain data for which zero is valid.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        let mut control = Control::EMPTY;
        control.tell(&mut header, None, None);
        assert!(header.msg_control.is_null() && header.msg_controllen == 0);
        assert_eq!(Told::of(&header), Told::default());
    }

    #[test]
    fn groups_and_links_are_left_to_the_kernel() {
        for ip in ["ff02::1", "fe80::1", "::", "::ffff:127.0.0.1"] {
            assert_eq!(answering(ip.parse().unwrap()), None, "{ip}");
        }
        assert_eq!(answering(Ipv6Addr::LOCALHOST), Some(Ipv6Addr::LOCALHOST.into()));
    }

    /// The macro that finds the next header added any length: the sum overflowed, and it found the same
    /// header again.
    #[test]
    fn a_length_beyond_all_memory_ends_the_control_messages() {
        for length in [ROOM + 1, usize::MAX - 7, usize::MAX - 6, usize::MAX] {
            // SAFETY: plain data for which zero is valid.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            let mut control = Control::EMPTY;
            control.tell(&mut header, None, Some(1472));
            control.header.cmsg_len = length as _;
            control.listen(&mut header);
            assert_eq!(Told::of(&header), Told::default(), "{length}");
        }
    }

    /// Any bytes. A message that is cut short was read as if it were complete.
    #[test]
    fn generated_control_messages_are_read_within_their_bounds() {
        crate::fuzzing::fuzz(|random| {
            // SAFETY: plain data for which zero is valid.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            let mut control = Control::EMPTY;
            let own = random.pick(&[None, "127.0.0.9".parse().ok(), "2001:db8::7".parse().ok()]);
            let segment = Some(random.number() as u16).filter(|_| random.one_in(2));
            control.tell(&mut header, own, segment);
            control.listen(&mut header);
            for _ in 0..random.below(4) {
                let at = random.below(ROOM);
                // SAFETY: each byte of the union may be anything.
                unsafe { control.bytes[at] = random.pick(&[0, 1, 8, 16, 17, 28, 41, 103, 255]) };
            }
            header.msg_controllen = random.below(ROOM + 1) as _;
            let told = Told::of(&header);
            assert!(told.joined <= i32::MAX as usize);
            assert!(told.own.is_none_or(|ip| !ip.is_unspecified()));
            // A message that is cut short tells less, and nothing else.
            header.msg_controllen = 0;
            control.tell(&mut header, own, None);
            let whole = Told::of(&header);
            assert_eq!(whole.own, own);
            header.msg_controllen = random.below(header.msg_controllen as usize + 1) as _;
            let cut = Told::of(&header);
            assert!(cut == whole || cut == Told::default(), "{cut:?}");
        });
    }

    /// A simple reader to compare with: byte offsets, each checked before use.
    fn told_by_offsets(control: &[u8]) -> Told {
        const HEAD: usize = mem::size_of::<libc::cmsghdr>();
        let mut told = Told::default();
        let number = |at: usize| control.get(at..at + 4).map(|four| four.try_into().unwrap());
        let mut at = 0;
        while let Some(head) = control.get(at..at + HEAD) {
            let length = usize::from_ne_bytes(head[..8].try_into().unwrap());
            let level = i32::from_ne_bytes(head[8..12].try_into().unwrap());
            let kind = i32::from_ne_bytes(head[12..].try_into().unwrap());
            let end = control.len().min(at.saturating_add(length));
            let Some(data) = control.get(at + HEAD..end) else { break };
            match (level, kind, data.len()) {
                (libc::SOL_UDP, libc::UDP_GRO, 4..) => {
                    let joined = i32::from_ne_bytes(number(at + HEAD).unwrap());
                    told.joined = joined.try_into().unwrap_or(0);
                }
                (libc::SOL_IP, libc::IP_PKTINFO, 12..) => {
                    let ip = Ipv4Addr::from(number(at + HEAD + 4).unwrap());
                    told.own = (!ip.is_unspecified()).then_some(ip.into());
                    told.to_group |= number(at + HEAD + 4) != number(at + HEAD + 8);
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO, 20..) => {
                    let ip: [u8; 16] = data[..16].try_into().unwrap();
                    told.to_group |= ip[0] == 0xFF;
                    told.own = told.own.or(answering(ip.into()));
                }
                _ => {}
            }
            match length.checked_next_multiple_of(8) {
                Some(length) if length < control.len() - at => at += length,
                _ => break,
            }
        }
        told
    }

    #[test]
    fn kept_control_messages_are_read_as_by_offsets() {
        let kept = include_str!("../../tests/corpus/udp_control.txt");
        crate::fuzzing::each_kept(kept, |bytes| {
            let bytes = &bytes[..bytes.len().min(ROOM)];
            // SAFETY: plain data for which zero is valid.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            // Bytes behind the control messages are not read.
            let mut control = Control { bytes: [0xA5; ROOM] };
            control.listen(&mut header);
            // SAFETY: each byte of the union may be anything.
            unsafe { control.bytes[..bytes.len()].copy_from_slice(bytes) };
            header.msg_controllen = bytes.len() as _;
            assert_eq!(Told::of(&header), told_by_offsets(bytes));
        });
    }
}
