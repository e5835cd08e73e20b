//! Request ids: the client's own if it is usable, else one made here.

use std::cell::Cell;

use smallvec::SmallVec;

/// The value of `X-Request-Id` for one exchange: 1 to [`RequestId::BYTES_MAX`] visible ASCII bytes.
/// Kept as the field line that tells it, which is written to the node and to the client.
#[derive(Debug, Clone)]
pub(super) struct RequestId(SmallVec<[u8; GENERATED_LINE_BYTES]>);

impl RequestId {
    /// The longest id taken from a client.
    const BYTES_MAX: usize = 128;

    /// The client's id, if it is one that logs and header fields can carry as it is.
    pub(super) fn from_client(value: &[u8]) -> Option<Self> {
        let usable =
            (1..=Self::BYTES_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
        usable.then(|| {
            let mut line = SmallVec::from_slice(LINE_START);
            line.extend_from_slice(value);
            line.extend_from_slice(LINE_END);
            Self(line)
        })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0[LINE_START.len()..self.0.len() - LINE_END.len()]
    }

    /// The field line, with its CRLF.
    pub(super) fn line(&self) -> &[u8] {
        &self.0
    }
}

/// Makes ids that differ over all workers and restarts: a random start, then a full-period sequence.
pub(super) struct RequestIds {
    state: Cell<u64>,
    /// Tells this worker's ids from those of others whose sequence passes the same state.
    stream: u64,
}

impl RequestIds {
    pub(super) fn new(seed: [u64; 2]) -> Self {
        Self {
            state: Cell::new(seed[0]),
            stream: seed[1],
        }
    }

    /// `req_` and 32 hexadecimal digits.
    pub(super) fn next(&self) -> RequestId {
        // SplitMix64: a Weyl sequence through a mixer, every 64-bit state once per period.
        let state = self.state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.state.set(state);
        let halves = [mix(state), mix(state ^ self.stream)];
        let mut line = *GENERATED_LINE;
        let digits = &mut line[DIGITS];
        let bytes = halves.into_iter().flat_map(u64::to_be_bytes);
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&HEX_PAIRS[usize::from(byte)]);
        }
        RequestId(SmallVec::from_buf(line))
    }
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

const LINE_START: &[u8] = b"X-Request-Id: ";
const LINE_END: &[u8] = b"\r\n";
/// The line of an id made here, its digits still to come.
const GENERATED_LINE: &[u8; GENERATED_LINE_BYTES] =
    b"X-Request-Id: req_00000000000000000000000000000000\r\n";
const GENERATED_LINE_BYTES: usize = 52;
const DIGITS: std::ops::Range<usize> = 18..50;

/// The two hexadecimal digits of each byte.
static HEX_PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generated_ids_differ_and_have_one_shape() {
        let ids = RequestIds::new([1, 2]);
        let seen: HashSet<Vec<u8>> = (0..10_000)
            .map(|_| ids.next().as_bytes().to_vec())
            .collect();
        assert_eq!(seen.len(), 10_000);
        assert!(
            seen.iter()
                .all(|id| id.len() == 36 && id.starts_with(b"req_"))
        );
    }

    #[test]
    fn a_client_id_is_kept_only_if_it_is_visible_ascii_of_bounded_length() {
        let id = RequestId::from_client(b"abc-123").unwrap();
        assert_eq!(id.as_bytes(), b"abc-123");
        assert_eq!(id.line(), b"X-Request-Id: abc-123\r\n");
        for unusable in [&b""[..], b"a b", b"a\tb", b"\xc3\xa9", &[b'x'; 129]] {
            assert!(RequestId::from_client(unusable).is_none(), "{unusable:?}");
        }
    }
}
