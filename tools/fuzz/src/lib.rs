//! What the targets share: ways to split an input.

/// Where to cut `input`: byte by byte, then a few coarse partitions that depend on its content only,
/// so that an input alone reproduces a failure. Each ends with the input's length.
pub fn partitions(input: &[u8]) -> impl Iterator<Item = Vec<usize>> {
    let len = input.len();
    // FNV-1a, then xorshift.
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }) | 1;
    let coarse = (0..3).map(move |_| {
        let mut cuts: Vec<usize> = (0..4)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state % (len as u64 + 1)).unwrap_or(len)
            })
            .collect();
        cuts.push(len);
        cuts.sort_unstable();
        cuts
    });
    std::iter::once((0..=len).collect()).chain(coarse)
}
