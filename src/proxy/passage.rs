//! How a response body passes from a node's framing into the client's, as plain data: which of the
//! received bytes go on, and when the body has ended. No byte is moved here.

use std::ops::Range;

use smallvec::SmallVec;

use crate::http1::{ChunkedDecoder, PieceKind, ResponseBody};
use crate::openai::{Usage, UsageTap};

/// Parts of a buffer that go on, in order; almost always one.
pub(super) type Ranges = SmallVec<[Range<usize>; 2]>;

/// One response body under way.
pub(super) struct Passage {
    incoming: Incoming,
    outgoing: Outgoing,
    seen: Seen,
}

/// What was observed of a body in passing.
#[derive(Default)]
struct Seen {
    usage: UsageTap,
    /// Without framing.
    body_bytes: u64,
}

impl Seen {
    fn feed(&mut self, data: &[u8]) {
        self.usage.feed(data);
        self.body_bytes += data.len() as u64;
    }
}

/// The node's framing.
enum Incoming {
    Empty,
    Fixed { bytes_left: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// The client's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// No body at all.
    Empty,
    /// The length the node announced.
    Fixed(u64),
    /// The node's chunks as they are.
    Chunks,
    /// Each received buffer becomes a chunk, because the node's body is not in chunks and its length is
    /// not known, or may not be told any more.
    Framed,
    /// Payload until we close: for HTTP/1.0.
    UntilClose,
}

/// What one buffer of received bytes means.
pub(super) struct Digest {
    pub(super) ranges: Ranges,
    pub(super) progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The body goes on.
    More,
    /// The body has ended, perhaps with bytes behind it that belong to nothing.
    Finished { has_excess: bool },
    /// The node broke its own framing; what came before may still go on.
    Broken,
}

impl Passage {
    pub(super) fn new(body: ResponseBody, is_http10: bool) -> Self {
        let (incoming, outgoing) = match body {
            ResponseBody::Empty => (Incoming::Empty, Outgoing::Empty),
            ResponseBody::Fixed(bytes) => (
                Incoming::Fixed { bytes_left: bytes },
                Outgoing::Fixed(bytes),
            ),
            ResponseBody::Chunked => {
                let outgoing = if is_http10 {
                    Outgoing::UntilClose
                } else {
                    Outgoing::Chunks
                };
                (Incoming::Chunked(ChunkedDecoder::new()), outgoing)
            }
            ResponseBody::UntilClose => {
                let outgoing = if is_http10 {
                    Outgoing::UntilClose
                } else {
                    Outgoing::Framed
                };
                (Incoming::UntilClose, outgoing)
            }
        };
        Self {
            incoming,
            outgoing,
            seen: Seen::default(),
        }
    }

    /// For a response whose head has said already that chunks follow.
    pub(super) fn into_chunks(body: ResponseBody) -> Self {
        let passage = Self::new(body, false);
        let outgoing = match passage.outgoing {
            Outgoing::Chunks => Outgoing::Chunks,
            _ => Outgoing::Framed,
        };
        Self {
            outgoing,
            ..passage
        }
    }

    pub(super) fn outgoing(&self) -> Outgoing {
        self.outgoing
    }

    /// Whether the end of the node's connection is the end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.incoming, Incoming::UntilClose)
    }

    /// The token counts seen in the body so far.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.seen.usage.usage()
    }

    /// Bytes of the body that have come so far, without framing.
    pub(super) fn body_bytes(&self) -> u64 {
        self.seen.body_bytes
    }

    /// Looks at the next received bytes.
    pub(super) fn digest(&mut self, received: &[u8]) -> Digest {
        match &mut self.incoming {
            Incoming::Empty => Digest {
                ranges: Ranges::new(),
                progress: Progress::Finished {
                    has_excess: !received.is_empty(),
                },
            },
            Incoming::Fixed { bytes_left } => {
                let wanted = usize::try_from(*bytes_left).unwrap_or(usize::MAX);
                let count = wanted.min(received.len());
                *bytes_left -= count as u64;
                let progress = if *bytes_left == 0 {
                    Progress::Finished {
                        has_excess: received.len() > count,
                    }
                } else {
                    Progress::More
                };
                self.seen.feed(&received[..count]);
                Digest {
                    ranges: range_if_any(count),
                    progress,
                }
            }
            Incoming::UntilClose => {
                self.seen.feed(received);
                Digest {
                    ranges: range_if_any(received.len()),
                    progress: Progress::More,
                }
            }
            Incoming::Chunked(decoder) => {
                digest_chunks(decoder, self.outgoing, &mut self.seen, received)
            }
        }
    }
}

fn digest_chunks(
    decoder: &mut ChunkedDecoder,
    outgoing: Outgoing,
    seen: &mut Seen,
    received: &[u8],
) -> Digest {
    let mut ranges = Ranges::new();
    let mut position = 0;
    while position < received.len() {
        let Ok(piece) = decoder.decode(&received[position..]) else {
            return Digest {
                ranges,
                progress: Progress::Broken,
            };
        };
        let range = position..position + piece.len;
        position = range.end;
        let goes_on = match piece.kind {
            PieceKind::Data => {
                seen.feed(&received[range.clone()]);
                true
            }
            PieceKind::Framing | PieceKind::End => outgoing == Outgoing::Chunks,
            PieceKind::Skip => false,
        };
        if goes_on {
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        if piece.kind == PieceKind::End {
            let has_excess = position < received.len();
            return Digest {
                ranges,
                progress: Progress::Finished { has_excess },
            };
        }
    }
    Digest {
        ranges,
        progress: Progress::More,
    }
}

#[expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges that has one"
)]
fn range_if_any(count: usize) -> Ranges {
    if count == 0 {
        Ranges::new()
    } else {
        Ranges::from_iter([0..count])
    }
}
