//! The lists of nodes and aliases: fields, limits, and what they may point at.

use crate::{NODE, file, layers, report};

#[test]
fn a_node_has_defaults_for_all_but_its_name_and_address() {
    let loaded = file(NODE).unwrap();
    let node = &loaded.config.nodes[0];
    assert_eq!((node.name.as_str(), node.weight), ("gpu-1", 1));
    assert_eq!(node.base_url.authority(), "10.0.0.1:8000");
    assert!(node.models.is_empty() && node.api_key.is_none() && node.max_concurrency.is_none());
}

#[test]
fn the_fields_of_a_node_are_read() {
    let text = format!(
        "{NODE}models = ['a', 'b']\napi_key = 'node-key'\nmax_concurrency = 8\nweight = 1000\n"
    );
    let node = file(&text).unwrap().config.nodes.remove(0);
    assert_eq!(
        (node.models.as_slice(), node.weight),
        (["a".into(), "b".into()].as_slice(), 1000)
    );
    assert_eq!(node.max_concurrency, Some(8));
    assert_eq!(node.api_key.unwrap().expose(), "node-key");
    let auto = file(&format!("{NODE}max_concurrency = 'auto'")).unwrap();
    assert_eq!(auto.config.nodes[0].max_concurrency, None);
}

#[test]
fn every_field_of_a_node_has_its_limits() {
    let long_model = format!("models = ['{}']", "m".repeat(257));
    let cases = [
        (
            "models = 'a'",
            "nodes[0].models = \"a\": must be a list of texts",
        ),
        ("models = ['a', 'a']", "nodes[0].models[1]: is listed twice"),
        (
            "models = ['', 1]",
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            "models = [\"a\\n\"]",
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            &long_model,
            "nodes[0].models[0]: must be a text of 1 to 256 bytes",
        ),
        (
            "api_key = 'two words'",
            "nodes[0].api_key: must be 1 to 4096 visible ASCII",
        ),
        (
            "api_key = ''",
            "nodes[0].api_key: must be 1 to 4096 visible ASCII",
        ),
        (
            "max_concurrency = 0",
            "nodes[0].max_concurrency = 0: must be \"auto\" or a whole number",
        ),
        (
            "max_concurrency = 1000001",
            "nodes[0].max_concurrency = 1000001: must be \"auto\"",
        ),
        (
            "max_concurrency = 'many'",
            "nodes[0].max_concurrency = \"many\": must be \"auto\"",
        ),
        (
            "weight = 0",
            "nodes[0].weight = 0: must be a whole number from 1 to 1000",
        ),
        (
            "weight = 1001",
            "nodes[0].weight = 1001: must be a whole number from 1 to 1000",
        ),
        (
            "weight = 1.5",
            "nodes[0].weight = 1.5: must be a whole number from 1 to 1000",
        ),
        (
            "colour = 1",
            "nodes[0].colour: unknown key; known are: name, base_url, models,",
        ),
    ];
    for (line, expected) in cases {
        let lines = report(file(&format!("{NODE}{line}\n")));
        assert!(
            lines[0].starts_with(&format!("config.toml:4: {expected}")),
            "{lines:#?}"
        );
    }
    assert_eq!(
        file(&format!("{NODE}models = ['{}']", "m".repeat(256)))
            .unwrap()
            .warnings,
        [""; 0]
    );
}

#[test]
fn a_name_of_a_node_is_bounded_and_unique() {
    let named = |name: &str| format!("[[nodes]]\nname = {name:?}\nbase_url = 'http://h'\n");
    let longest = "n".repeat(64);
    for name in ["a", "GPU_1.rack-2", &longest] {
        assert!(file(&named(name)).is_ok(), "{name}");
    }
    for name in ["", "a b", "a/b", "ä", "a\"", &format!("{longest}n")] {
        assert_eq!(report(file(&named(name))).len(), 1, "{name}");
    }
    let lines = report(file(&[named("a"), named("b"), named("a")].concat()));
    let expected =
        "config.toml:8: nodes[2].name = \"a\": is already the name of another node".to_owned();
    assert_eq!(lines, [expected]);
}

#[test]
fn an_entry_of_the_wrong_shape_is_located() {
    let lines = report(file("nodes = 1\naliases = ['x']\nport = 3\nserver = 4\n"));
    let expected = [
        "config.toml:1: nodes: must be written as [[nodes]] entries",
        "config.toml:2: aliases[0]: must be a table",
        "config.toml:3: port: unknown key; did you mean server.port?",
        "config.toml:4: server: must be a section: [server]",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_node_that_is_the_router_itself_is_refused() {
    let node = |url: &str| format!("[[nodes]]\nname = 'a'\nbase_url = '{url}'\n");
    for (host, url) in [
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://localhost:8080/v1"),
        ("::", "http://[::1]:8080"),
        ("127.0.0.1", "http://localhost:8080"),
        ("10.0.0.1", "http://10.0.0.1:8080"),
    ] {
        let lines = report(layers(&node(url), &[], &[("server.host", host)]));
        assert!(
            lines[0].starts_with("config.toml:3: nodes[0].base_url = \"http://"),
            "{lines:#?}"
        );
        assert!(
            lines[0].ends_with("is the address of the router itself"),
            "{lines:#?}"
        );
    }
    for (host, url) in [
        ("0.0.0.0", "http://127.0.0.1:8081"),
        ("10.0.0.1", "http://127.0.0.1:8080"),
        ("10.0.0.1", "http://localhost:8080"),
        ("0.0.0.0", "http://10.0.0.1:8080"),
    ] {
        assert!(
            layers(&node(url), &[], &[("server.host", host)]).is_ok(),
            "{host} {url}"
        );
    }
}

#[test]
fn an_alias_points_at_a_model_and_never_at_an_alias() {
    let alias = |model: &str, to: &str| format!("[[aliases]]\nmodel = '{model}'\nto = '{to}'\n");
    let nodes = format!("{NODE}models = ['llama']\n");
    assert!(file(&[nodes.clone(), alias("small", "llama")].concat()).is_ok());
    assert!(file(&[nodes.clone(), alias("small", "openai:gpt-4o")].concat()).is_ok());
    let aliases = [
        alias("a", "a"),
        alias("b", "c"),
        alias("c", "llama"),
        alias("d", "lama"),
        alias("c", "llama"),
    ];
    let expected = [
        "config.toml:7: aliases[0].to = \"a\": must be another name than the alias itself",
        "config.toml:10: aliases[1].to = \"c\": must be a model of a node, not another alias",
        "config.toml:16: aliases[3].to = \"lama\": is a model that no node lists",
        "config.toml:18: aliases[4].model = \"c\": is already the name of another alias",
    ];
    assert_eq!(report(file(&(nodes + &aliases.concat()))), expected);
}

#[test]
fn the_target_of_an_alias_is_not_checked_while_some_node_is_to_be_asked() {
    let alias = "[[aliases]]\nmodel = 'a'\nto = 'unknown-yet'\n";
    assert!(file(alias).is_ok());
    assert!(file(&format!("{NODE}{alias}")).is_ok());
}

#[test]
fn an_alias_that_hides_a_model_is_a_warning() {
    let text = format!(
        "[server]\nhost = '::1'\n{NODE}models = ['a', 'b']\n[[aliases]]\nmodel = 'a'\nto = 'b'\n"
    );
    let warnings = file(&text).unwrap().warnings;
    assert_eq!(
        warnings,
        ["the alias \"a\" hides a node's model of the same name"]
    );
}
