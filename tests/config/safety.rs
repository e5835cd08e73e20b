//! Open doors are noticed, and secrets stay unseen.

use llm_router::config::{Environment, FileText, fail_closed, resolve};

use crate::{NODE, file, layers, report};

#[test]
fn open_doors_are_warned_of_unless_only_this_machine_can_knock() {
    let open = "[auth]\nrequired = false\n";
    let warnings = file(open).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].starts_with("auth.required = false"));
    for host in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
    ] {
        let loaded = layers(open, &[], &[("server.host", host)]).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{host}");
    }
}

#[test]
fn a_reachable_listener_without_any_key_is_refused() {
    let config = |host: &str, auth: &str| {
        layers(&format!("[auth]\n{auth}\n"), &[], &[("server.host", host)])
            .unwrap()
            .config
    };
    let closed = config("0.0.0.0", "");
    let problem = fail_closed(&closed, false).unwrap_err().to_string();
    assert!(problem.contains("llm-router keys create"), "{problem}");
    assert_eq!(fail_closed(&closed, true), Ok(()));
    assert_eq!(fail_closed(&config("127.0.0.1", ""), false), Ok(()));
    assert_eq!(
        fail_closed(&config("10.0.0.1", "required = false"), false),
        Ok(())
    );
    assert_eq!(
        fail_closed(&config("10.0.0.1", "api_keys = ['sk-1']"), false),
        Ok(())
    );
    assert!(fail_closed(&config("::", ""), false).is_err());
}

/// Plants a canary wherever a secret can stand, rightly and wrongly, and looks for it in every
/// text the configuration can produce.
#[test]
fn no_secret_appears_in_any_report_or_debug_output() {
    let canary = "CANARY";
    let good = format!(
        "[auth]\napi_keys = ['sk-{canary}']\nadmin_password = '{canary}'\n\
         {NODE}api_key = '{canary}'\n"
    );
    let environment = Environment::from_pairs([
        ("LLM_ROUTER_API_KEYS", canary),
        ("LLM_ROUTER_ADMIN_PASSWORD", canary),
    ]);
    let loaded = resolve(
        Some(FileText {
            name: "f",
            text: &good,
        }),
        &environment,
        &[],
    )
    .unwrap();
    assert!(!format!("{loaded:?} {environment:?}").contains(canary));

    let bad = [
        format!("[auth]\napi_keys = ['{canary} with blanks', '{canary}', '{canary}']"),
        format!("[auth]\napi_keys = '{canary}'"),
        format!("[auth]\nadmin_password = ['{canary}']"),
        format!("[auth]\nadmin_password = \"{canary}\\n\""),
        format!("[auth]\nadmin_passwort = '{canary}'"),
        format!("[auth]\nadmin_password = '{canary}"),
        format!("[auth]\nadmin_password = {canary}"),
        format!("[autth]\nadmin_password = '{canary}'"),
        format!("auth = '{canary}'"),
        format!("{NODE}api_key = '{canary} {canary}'"),
        format!("{NODE}apikey = '{canary}'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'http://user:{canary}@gpu-1'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'https://user:{canary}@gpu-1'"),
        format!("[[nodes]]\nname = 'a'\nbase_url = 'http://gpu-1/?key={canary}'"),
    ];
    for text in bad {
        let problems = file(&text).unwrap_err();
        assert!(
            !format!("{problems} {problems:?}").contains(canary),
            "{problems}"
        );
    }
    let overrides = [("auth.admin_password", canary)];
    let problems = layers("", &[("LLM_ROUTER_API_KEYS", "CANARY ä")], &overrides).unwrap_err();
    assert!(
        !format!("{problems} {problems:?}").contains(canary),
        "{problems}"
    );
}

#[test]
fn a_hostile_value_is_shown_escaped_and_short() {
    let text = format!("[server]\nhost = \"\\u001b[31m{}\"", "x".repeat(10_000));
    let lines = report(file(&text));
    assert!(
        lines[0].contains("\\u{1b}[31mxxx") && lines[0].len() < 250,
        "{lines:#?}"
    );
}
