//! Which engine a node runs and how many requests that works on at once, read from what the engine says
//! about itself. Plain data in, plain data out.
//!
//! | engine | `owned_by` of its models | slots |
//! |---|---|---|
//! | vLLM | `vllm` (`vllm/entrypoints/openai/…/protocol.py`) | `vllm_config.scheduler_config.max_num_seqs` of `/server_info?config_format=json`, in its development mode only (`vllm/entrypoints/serve/instrumentator/server_info.py`) |
//! | SGLang | `sglang` (`sglang/srt/entrypoints/openai/protocol.py`) | `effective_max_running_requests_per_dp`, summed over `internal_states` of `/server_info`, earlier `/get_server_info` (`sglang/srt/managers/scheduler.py`) |
//! | llama.cpp | `llamacpp` (`tools/server`) | `total_slots` of `/props` |
//! | Ollama | the namespace of the model, usually `library` (`openai/openai.go`); answers `/api/version` | not told |
//! | LM Studio | `organization_owner` | not told (`/api/v1/models` lists no parallelism) |

use serde::Deserialize;

use crate::config::CONCURRENCY_MAX;

/// An inference engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Engine {
    Vllm,
    Sglang,
    LlamaCpp,
    Ollama,
    LmStudio,
    /// None of those above, or one in disguise.
    Generic,
}

/// A model list as it was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ModelList {
    /// The usable ids, sorted, each once.
    pub(super) ids: Vec<Box<str>>,
    /// The engine that writes its name under the models, if one does.
    pub(super) engine: Option<Engine>,
}

/// What is asked to learn the number of slots.
#[derive(Clone, Copy)]
pub(super) struct SlotQuestion {
    pub(super) path: &'static str,
    pub(super) query: Option<&'static str>,
    /// Finds the figure in the answer.
    pub(super) read: fn(&mut [u8]) -> Option<u32>,
}

impl Engine {
    /// The word in the control API.
    pub(in crate::control) const fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llama.cpp",
            Self::Ollama => "ollama",
            Self::LmStudio => "lm-studio",
            Self::Generic => "generic",
        }
    }

    /// Whether its slots may be asked for at every probe: the answer costs it nothing.
    pub(in crate::control) const fn tells_slots_cheaply(self) -> bool {
        matches!(self, Self::LlamaCpp | Self::Generic)
    }

    /// What to ask for the number of slots, in this order, until one answers.
    pub(super) fn slot_questions(self) -> &'static [SlotQuestion] {
        match self {
            Self::Vllm => &[SlotQuestion {
                path: "/server_info",
                query: Some("config_format=json"),
                read: vllm_slots,
            }],
            Self::Sglang => &[
                SlotQuestion {
                    path: "/server_info",
                    query: None,
                    read: sglang_slots,
                },
                SlotQuestion {
                    path: "/get_server_info",
                    query: None,
                    read: sglang_slots,
                },
            ],
            // What does not say who it is may still answer as llama.cpp does.
            Self::LlamaCpp | Self::Generic => &[SlotQuestion {
                path: "/props",
                query: None,
                read: llama_cpp_slots,
            }],
            Self::Ollama | Self::LmStudio => &[],
        }
    }

    fn of_owner(owner: &str) -> Option<Self> {
        match owner {
            "vllm" => Some(Self::Vllm),
            "sglang" => Some(Self::Sglang),
            "llamacpp" => Some(Self::LlamaCpp),
            "library" => Some(Self::Ollama),
            "organization_owner" => Some(Self::LmStudio),
            _ => None,
        }
    }
}

/// Reads an OpenAI model list; `None` if it is something else.
pub(super) fn read_models(body: &mut [u8]) -> Option<ModelList> {
    #[derive(Deserialize)]
    struct List {
        // Ollama writes null when it has no model.
        data: Option<Vec<Model>>,
        object: Option<String>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
        #[serde(default)]
        owned_by: Option<String>,
    }
    let list: List = simd_json::serde::from_slice(body).ok()?;
    let models = match list.data {
        Some(models) => models,
        // Else every other document would be a list without models.
        None if list.object.as_deref() == Some("list") => Vec::new(),
        None => return None,
    };
    let owners = models.iter().filter_map(|model| model.owned_by.as_deref());
    let engine = owners.filter_map(Engine::of_owner).next();
    let usable = models
        .into_iter()
        .map(|model| model.id)
        .filter(|id| is_usable(id));
    let mut ids: Vec<Box<str>> = usable.take(MODELS_MAX).map(Into::into).collect();
    ids.sort_unstable();
    ids.dedup();
    Some(ModelList { ids, engine })
}

/// Whether this is Ollama's answer at `/api/version`.
pub(super) fn is_ollama_version(body: &mut [u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    simd_json::serde::from_slice::<Version>(body).is_ok_and(|answer| {
        answer
            .version
            .starts_with(|first: char| first.is_ascii_digit())
    })
}

fn llama_cpp_slots(body: &mut [u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Props {
        total_slots: u32,
    }
    let props: Props = simd_json::serde::from_slice(body).ok()?;
    plausible(u64::from(props.total_slots))
}

fn sglang_slots(body: &mut [u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Info {
        internal_states: Vec<State>,
    }
    #[derive(Deserialize)]
    struct State {
        effective_max_running_requests_per_dp: u32,
    }
    let info: Info = simd_json::serde::from_slice(body).ok()?;
    let states = info.internal_states.iter();
    plausible(
        states
            .map(|state| u64::from(state.effective_max_running_requests_per_dp))
            .sum(),
    )
}

fn vllm_slots(body: &mut [u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Info {
        vllm_config: Settings,
    }
    #[derive(Deserialize)]
    struct Settings {
        scheduler_config: Scheduler,
    }
    #[derive(Deserialize)]
    struct Scheduler {
        max_num_seqs: u32,
    }
    let info: Info = simd_json::serde::from_slice(body).ok()?;
    plausible(u64::from(info.vllm_config.scheduler_config.max_num_seqs))
}

fn plausible(slots: u64) -> Option<u32> {
    let slots = u32::try_from(slots).ok()?;
    (1..=CONCURRENCY_MAX).contains(&slots).then_some(slots)
}

/// Whether clients can ask for a model of this name.
fn is_usable(id: &str) -> bool {
    (1..=crate::openai::peek::MODEL_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control)
}

const MODELS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Option<ModelList> {
        read_models(&mut text.as_bytes().to_vec())
    }

    #[test]
    fn every_engine_is_known_by_the_name_it_writes_under_its_models() {
        use Engine::{LlamaCpp, LmStudio, Ollama, Sglang, Vllm};
        for (owner, engine) in [
            ("vllm", Some(Vllm)),
            ("sglang", Some(Sglang)),
            ("llamacpp", Some(LlamaCpp)),
            ("library", Some(Ollama)),
            ("organization_owner", Some(LmStudio)),
            ("openai", None),
            ("", None),
        ] {
            let text = format!(
                r#"{{"object":"list","data":[{{"id":"b","owned_by":null}},{{"id":"a","owned_by":"{owner}"}}]}}"#
            );
            let found = list(&text).unwrap();
            assert_eq!(
                (found.ids, found.engine),
                (vec!["a".into(), "b".into()], engine)
            );
        }
    }

    #[test]
    fn a_list_without_models_is_one_and_unusable_names_are_left_out() {
        assert_eq!(list(r#"{"object":"list","data":null}"#).unwrap().ids, []);
        let odd = format!(
            r#"{{"data":[{{"id":"a"}},{{"id":"a"}},{{"id":"bad\n"}},{{"id":""}},{{"id":"{}"}}]}}"#,
            "x".repeat(10_000)
        );
        assert_eq!(list(&odd).unwrap().ids, ["a".into()] as [Box<str>; 1]);
        for no_list in [
            "",
            "nope",
            "[]",
            "{}",
            r#"{"object":"page"}"#,
            r#"{"data":null}"#,
            r#"{"data":[{"name":"a"}]}"#,
            r#"{"data":{}}"#,
        ] {
            assert_eq!(list(no_list), None, "{no_list:?}");
        }
    }

    #[test]
    fn slots_are_read_from_what_each_engine_reports_and_from_nothing_else() {
        let read =
            |read: fn(&mut [u8]) -> Option<u32>, text: &str| read(&mut text.as_bytes().to_vec());
        assert_eq!(
            read(
                llama_cpp_slots,
                r#"{"default_generation_settings":{},"total_slots":4}"#
            ),
            Some(4)
        );
        assert_eq!(
            read(
                sglang_slots,
                r#"{"max_running_requests":null,"internal_states":[{"effective_max_running_requests_per_dp":128},
                    {"effective_max_running_requests_per_dp":128,"x":1}],"version":"0.5"}"#
            ),
            Some(256)
        );
        assert_eq!(
            read(
                vllm_slots,
                r#"{"vllm_config":{"model_config":{},"scheduler_config":{"max_num_seqs":64}}}"#
            ),
            Some(64)
        );
        for other in [
            r#"{"total_slots":0}"#,
            r#"{"total_slots":-1}"#,
            r#"{"total_slots":1000001}"#,
            r#"{"internal_states":[]}"#,
            r#"{"vllm_config":"ModelConfig(…)"}"#,
            "{}",
            "no",
        ] {
            for reader in [llama_cpp_slots, sglang_slots, vllm_slots] {
                assert_eq!(read(reader, other), None, "{other}");
            }
        }
    }

    #[test]
    fn ollama_is_known_by_its_version() {
        assert!(is_ollama_version(&mut br#"{"version":"0.12.3"}"#.to_vec()));
        assert!(!is_ollama_version(&mut br#"{"version":"main"}"#.to_vec()));
        assert!(!is_ollama_version(&mut b"{}".to_vec()));
    }
}
