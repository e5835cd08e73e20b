//! The nearest known name to a misspelt one.

/// The candidate an operator most likely meant, if any is near.
///
/// A name that only stands in the wrong section wins; then one of the same section that contains
/// it, such as `timeout_secs` for `timeout`; then the smallest edit distance, up to a third of the
/// name.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    if let Some(elsewhere) = candidates
        .clone()
        .find(|candidate| leaf(candidate) == leaf(name))
    {
        return Some(elsewhere);
    }
    if let Some(longer) = candidates
        .clone()
        .find(|candidate| completes(candidate, name))
    {
        return Some(longer);
    }
    candidates
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= (name.len() / 3).min(DISTANCE_MAX))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn completes(candidate: &str, name: &str) -> bool {
    match (candidate.split_once('.'), name.split_once('.')) {
        (Some((section, longer)), Some((same, part))) => {
            section == same && part.len() >= COMPLETED_BYTES_MIN && longer.contains(part)
        }
        _ => false,
    }
}

/// Levenshtein's distance over bytes, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, byte_b) in row[1..].iter_mut().zip(b.bytes()) {
            let substituted = diagonal + usize::from(byte_a != byte_b);
            diagonal = *cell;
            left = substituted.min(left + 1).min(*cell + 1);
            *cell = left;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

const NAME_BYTES_MAX: usize = 128;
const DISTANCE_MAX: usize = 4;
const COMPLETED_BYTES_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 4] = [
        "server.host",
        "server.port",
        "queue.max_size",
        "proxy.retries",
    ];

    #[test]
    fn distances_are_those_of_levenshtein() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("flaw", "lawn"), 2);
    }

    #[test]
    fn a_misspelt_name_suggests_the_nearest() {
        assert_eq!(
            nearest("server.prot", PATHS.into_iter()),
            Some("server.port")
        );
        assert_eq!(
            nearest("sever.hots", PATHS.into_iter()),
            Some("server.host")
        );
    }

    #[test]
    fn a_name_in_the_wrong_section_suggests_its_own_section() {
        assert_eq!(
            nearest("server.max_size", PATHS.into_iter()),
            Some("queue.max_size")
        );
        assert_eq!(nearest("port", PATHS.into_iter()), Some("server.port"));
    }

    #[test]
    fn a_shortened_name_suggests_the_whole_one() {
        assert_eq!(
            nearest("queue.size", PATHS.into_iter()),
            Some("queue.max_size")
        );
        assert_eq!(nearest("queue.ma", PATHS.into_iter()), None);
    }

    #[test]
    fn a_name_far_from_everything_suggests_nothing() {
        assert_eq!(nearest("colour", PATHS.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(10_000), PATHS.into_iter()), None);
    }
}
