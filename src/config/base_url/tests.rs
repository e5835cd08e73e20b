//! Which texts are node addresses, and which are refused for which reason.

use super::*;

fn parsed(text: &str) -> (String, u16, String, String) {
    let url = BaseUrl::parse(text).unwrap();
    let host = url.host().to_string();
    (
        host,
        url.port(),
        url.path_prefix().to_owned(),
        url.authority().to_owned(),
    )
}

fn parts(host: &str, port: u16, prefix: &str, authority: &str) -> (String, u16, String, String) {
    (
        host.to_owned(),
        port,
        prefix.to_owned(),
        authority.to_owned(),
    )
}

#[test]
fn an_address_with_and_without_v1_is_the_same_node() {
    let expected = parts("gpu-1", 8000, "", "gpu-1:8000");
    for text in [
        "http://gpu-1:8000",
        "http://gpu-1:8000/",
        "http://gpu-1:8000/v1",
    ] {
        assert_eq!(parsed(text), expected, "{text}");
    }
    assert_eq!(
        BaseUrl::parse("http://gpu-1:8000/v1/"),
        BaseUrl::parse("HTTP://GPU-1:8000")
    );
}

#[test]
fn a_prefix_before_v1_is_kept() {
    assert_eq!(parsed("http://h/base/v1"), parts("h", 80, "/base", "h"));
    assert_eq!(
        parsed("http://h/a/b.c_d~e-f/"),
        parts("h", 80, "/a/b.c_d~e-f", "h")
    );
    assert_eq!(parsed("http://h/v1/v1"), parts("h", 80, "/v1", "h"));
}

#[test]
fn addresses_of_both_families_are_written_canonically() {
    assert_eq!(
        parsed("http://10.0.0.7:1"),
        parts("10.0.0.7", 1, "", "10.0.0.7:1")
    );
    assert_eq!(parsed("http://[::1]"), parts("[::1]", 80, "", "[::1]"));
    assert_eq!(
        parsed("http://[FD00:0:0:0::12]:65535"),
        parts("[fd00::12]", 65535, "", "[fd00::12]:65535")
    );
}

#[test]
fn a_url_prints_as_it_would_be_parsed_again() {
    for text in [
        "http://gpu-1:8000/base",
        "http://[::1]:81",
        "http://10.0.0.7",
    ] {
        let url = BaseUrl::parse(text).unwrap();
        assert_eq!(url.to_string(), text);
        assert_eq!(format!("{url:?}"), format!("BaseUrl({text})"));
    }
}

#[test]
fn names_of_containers_and_of_the_limits_are_accepted() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    assert_eq!(name.len(), 253);
    for host in [
        "ollama_1",
        "xn--bcher-kva.example",
        "3com.example",
        "a1",
        &name,
    ] {
        assert!(BaseUrl::parse(&format!("http://{host}")).is_ok(), "{host}");
    }
}

#[test]
fn a_text_that_readers_could_understand_differently_is_refused() {
    let cases = [
        ("", BaseUrlError::Scheme),
        ("gpu-1:8000", BaseUrlError::Scheme),
        ("ftp://h", BaseUrlError::Scheme),
        ("http:/h", BaseUrlError::Scheme),
        ("https://h", BaseUrlError::Https),
        ("HTTPS://h", BaseUrlError::Https),
        ("http://user@h", BaseUrlError::UserInfo),
        ("http://user:password@h:80", BaseUrlError::UserInfo),
        ("http://@h", BaseUrlError::UserInfo),
        ("http://h/v1?key=1", BaseUrlError::Query),
        ("http://h?", BaseUrlError::Query),
        ("http://h#", BaseUrlError::Fragment),
        ("http://", BaseUrlError::EmptyHost),
        ("http://:80", BaseUrlError::EmptyHost),
        ("http:///v1", BaseUrlError::EmptyHost),
        ("http://a b", BaseUrlError::HostName),
        ("http://a..b", BaseUrlError::HostName),
        ("http://a.", BaseUrlError::HostName),
        ("http://-a", BaseUrlError::HostName),
        ("http://a-", BaseUrlError::HostName),
        ("http://bücher", BaseUrlError::HostName),
        ("http://a\\b", BaseUrlError::HostName),
        ("http://a%2eb", BaseUrlError::HostName),
        ("http://h\r\nX: 1", BaseUrlError::HostName),
        ("http://h\r\n", BaseUrlError::HostName),
        ("http://h:", BaseUrlError::Port),
        ("http://h:0", BaseUrlError::Port),
        ("http://h:080", BaseUrlError::Port),
        ("http://h:+80", BaseUrlError::Port),
        ("http://h:65536", BaseUrlError::Port),
        ("http://h:80:80", BaseUrlError::Ipv6),
        ("http://::1", BaseUrlError::Ipv6),
        ("http://[::1", BaseUrlError::Ipv6),
        ("http://[::1]80", BaseUrlError::Ipv6),
        ("http://[gpu]", BaseUrlError::Ipv6),
        ("http://[]", BaseUrlError::Ipv6),
        ("http://[fe80::1%25eth0]", BaseUrlError::Zone),
        ("http://[fe80::1%eth0]", BaseUrlError::Zone),
        ("http://h//v1", BaseUrlError::Path),
        ("http://h/../admin", BaseUrlError::Path),
        ("http://h/./v1", BaseUrlError::Path),
        ("http://h/a%2f..", BaseUrlError::Path),
        ("http://h/a b", BaseUrlError::Path),
        ("http://h//", BaseUrlError::Path),
    ];
    for (text, expected) in cases {
        assert_eq!(BaseUrl::parse(text), Err(expected), "{text:?}");
    }
    let long = format!("http://h/{}", "a".repeat(BASE_URL_BYTES_MAX));
    assert_eq!(BaseUrl::parse(&long), Err(BaseUrlError::TooLong));
}

#[test]
fn a_number_that_some_resolver_reads_as_an_address_is_refused() {
    let hosts = [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "017700000001",
        "127.1",
        "127.0.0.01",
        "0127.0.0.1",
        "127.0.0.1.",
        "256.0.0.1",
        "1.2.3.4.5",
        "example.1",
        "example.0xA",
        "0x",
    ];
    for host in hosts {
        let result = BaseUrl::parse(&format!("http://{host}"));
        assert_eq!(result, Err(BaseUrlError::NumericHost), "{host}");
    }
}

#[test]
fn an_address_that_no_node_can_have_is_refused_in_every_spelling() {
    let hosts = [
        "0.0.0.0",
        "0.1.2.3",
        "255.255.255.255",
        "224.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "[::]",
        "[ff02::1]",
        "[fe80::1]",
        "[febf::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:0.0.0.0]",
        "[::ffff:e000:1]",
    ];
    for host in hosts {
        let result = BaseUrl::parse(&format!("http://{host}"));
        assert!(
            matches!(result, Err(BaseUrlError::Forbidden(_))),
            "{host}: {result:?}"
        );
    }
}

#[test]
fn addresses_where_nodes_live_are_allowed() {
    for ip in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.20",
        "8.8.8.8",
        "100.64.0.1",
    ] {
        assert_eq!(forbidden_address(ip.parse().unwrap()), None, "{ip}");
    }
    for ip in [
        "::1",
        "fd00::1",
        "2001:db8::1",
        "fec0::1",
        "::ffff:10.0.0.1",
    ] {
        assert_eq!(forbidden_address(ip.parse().unwrap()), None, "{ip}");
    }
}
