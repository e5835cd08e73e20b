//! The dashboard's files, compiled in: path → bytes, media type, tag, and the fields that keep a browser
//! from running or showing anything else. No I/O and no decisions about who may see what: the page holds
//! no data and asks the control API like any other client.
//!
//! The files are plain HTML, CSS and JavaScript modules, as a browser takes them; nothing builds them.

/// One file.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// The whole file.
    pub body: &'static [u8],
    /// What it is.
    pub content_type: &'static str,
    /// A strong entity tag, with its quotes: another one for other bytes.
    pub etag: &'static str,
}

impl Asset {
    /// Whether a client that sent this `If-None-Match` has the file as it is now (RFC 9110 section
    /// 13.1.2; the comparison is the weak one).
    #[must_use]
    pub fn is_known_by(&self, if_none_match: &[u8]) -> bool {
        if_none_match
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| {
                tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes()
            })
    }
}

/// The file at a path, which is taken as it was sent, without its query.
#[must_use]
pub fn asset(path: &str) -> Option<&'static Asset> {
    let name = match path {
        "/" => "index.html",
        _ => path.strip_prefix("/assets/")?,
    };
    ASSETS
        .iter()
        .find_map(|(known, asset)| (*known == name).then_some(asset))
}

/// What a browser is told with every file. Its own address is all that the page may speak to, inline code
/// does not run, no other page may show this one; and the files are asked for again each time, so that a
/// router that was replaced is not shown by the page of the old one.
pub const FIELDS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
];

macro_rules! assets {
    ($($name:literal as $content_type:expr,)+) => {
        &[$(($name, {
            const BODY: &[u8] = include_bytes!(concat!("assets/", $name));
            const TAG: [u8; TAG_BYTES] = tag(BODY);
            Asset {
                body: BODY,
                content_type: $content_type,
                etag: match std::str::from_utf8(&TAG) {
                    Ok(text) => text,
                    Err(_) => unreachable!(),
                },
            }
        }),)+]
    };
}

const ASSETS: &[(&str, Asset)] = assets! {
    "index.html" as HTML,
    "style.css" as "text/css; charset=utf-8",
    "favicon.svg" as "image/svg+xml",
    "theme.js" as SCRIPT,
    "main.js" as SCRIPT,
    "dom.js" as SCRIPT,
    "format.js" as SCRIPT,
    "api.js" as SCRIPT,
    "live.js" as SCRIPT,
    "ui.js" as SCRIPT,
    "chart.js" as SCRIPT,
    "figures.js" as SCRIPT,
    "login.js" as SCRIPT,
    "metrics.js" as SCRIPT,
    "queue.js" as SCRIPT,
    "history.js" as SCRIPT,
    "nodes.js" as SCRIPT,
    "keys.js" as SCRIPT,
};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TAG_BYTES: usize = 18;

/// FNV-1a over the bytes, as sixteen hexadecimal digits in quotes. Nobody gains by making two files collide.
const fn tag(bytes: &[u8]) -> [u8; TAG_BYTES] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    let mut text = [b'"'; TAG_BYTES];
    let mut digit = 0;
    while digit < 16 {
        text[16 - digit] = b"0123456789abcdef"[(hash >> (4 * digit)) as usize & 15];
        digit += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn names() -> BTreeSet<String> {
        ASSETS.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dashboard/assets");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, names());
        assert!(asset("/").is_some());
        assert!(asset("/assets/main.js").is_some());
        for path in [
            "/assets/",
            "/assets/../mod.rs",
            "/assets/Main.js",
            "/assets//main.js",
            "/index.html",
            "",
        ] {
            assert!(asset(path).is_none(), "{path}");
        }
    }

    #[test]
    fn tags_tell_files_apart_and_match_as_http_says() {
        let tags: BTreeSet<&str> = ASSETS.iter().map(|(_, asset)| asset.etag).collect();
        assert_eq!(tags.len(), ASSETS.len());
        let page = asset("/").unwrap();
        assert!(page.etag.starts_with('"') && page.etag.ends_with('"') && page.etag.len() == 18);
        for known in [
            page.etag.to_owned(),
            format!("W/{}", page.etag),
            format!("\"other\", {}", page.etag),
            "*".to_owned(),
        ] {
            assert!(page.is_known_by(known.as_bytes()), "{known}");
        }
        for other in ["", "\"other\"", page.etag.trim_matches('"')] {
            assert!(!page.is_known_by(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_page_loads_nothing_but_its_own_files_and_holds_no_code_of_its_own() {
        let page = std::str::from_utf8(asset("/").unwrap().body).unwrap();
        for reference in page
            .split(['"'])
            .filter(|part| part.starts_with("/assets/"))
        {
            assert!(asset(reference).is_some(), "{reference} is not there");
        }
        let loads = ["src=\"", "rel=\"stylesheet\" href=\""];
        for start in loads.iter().flat_map(|load| page.split(load).skip(1)) {
            assert!(start.starts_with("/assets/"), "{}", &start[..40]);
        }
        for forbidden in [
            "<style",
            " style=",
            " onclick",
            " onload",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        for script in page.split("<script").skip(1) {
            assert!(script.contains("></script>"), "a script with code in it");
        }
    }

    #[test]
    fn modules_never_turn_text_into_markup_or_code() {
        for (name, asset) in ASSETS.iter().filter(|(name, _)| name.ends_with(".js")) {
            let code = std::str::from_utf8(asset.body).unwrap();
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "DOMParser",
                "eval(",
                "new Function",
                "setAttribute('style'",
                "https://",
            ] {
                assert!(!code.contains(forbidden), "{name}: {forbidden}");
            }
        }
    }

    #[test]
    fn a_first_visit_is_a_small_download() {
        let bytes: usize = ASSETS.iter().map(|(_, asset)| asset.body.len()).sum();
        assert!(bytes < 150_000, "{bytes} bytes");
    }
}
