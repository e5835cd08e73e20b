//! `GET /api/openapi.json`: the control API described by an OpenAPI 3.1 document, which stands beside this file
//! and is part of the program.

use http::StatusCode;

use crate::openai::ApiError;

use super::{Call, Context, Reply};

/// `GET /api/openapi.json`.
pub(super) fn document(_: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    let body = DOCUMENT.as_bytes().to_vec();
    Ok(Reply::of(StatusCode::OK, "application/json", body))
}

const DOCUMENT: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::rights::Right;
    use super::super::table::ROUTES;
    use super::*;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn the_document_describes_every_route_and_nothing_else() {
        let document = document();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().unwrap().keys();
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let routes = ROUTES.iter();
        let routes = routes.map(|route| (route.path.to_owned(), route.method.as_str().to_owned()));
        assert_eq!(described, routes.collect());
    }

    #[test]
    fn who_may_ask_is_described_as_it_is_checked() {
        let document = document();
        for route in ROUTES {
            let method = route.method.as_str().to_lowercase();
            let operation = &document["paths"][route.path][&method];
            let security = operation.get("security");
            let expected = match route.right {
                Right::Public => Some(serde_json::json!([])),
                Right::NodeToken => Some(serde_json::json!([{"nodeToken": []}])),
                Right::Admin | Right::Nodes => None,
            };
            assert_eq!(security, expected.as_ref(), "{method} {}", route.path);
            let has_401 = operation["responses"].get("401").is_some();
            let is_login = route.path.ends_with("/login");
            assert_eq!(has_401, route.right != Right::Public || is_login);
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_everything_is_referred_to() {
        fn collect(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        match value.as_str() {
                            Some(target) if name == "$ref" => drop(found.insert(target.to_owned())),
                            _ => collect(value, found),
                        }
                    }
                }
                Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = BTreeSet::new();
        collect(&document, &mut found);
        for target in &found {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        for kind in ["schemas", "responses"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                // The data of events are described for people: the stream itself is a text.
                let is_event = ["Series", "Snapshot", "Point"].contains(&name.as_str());
                let target = format!("#/components/{kind}/{name}");
                assert!(is_event || found.contains(&target), "{target} is not used");
            }
        }
    }

    #[test]
    fn it_is_of_this_version() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(document()["openapi"], "3.1.0");
    }
}
