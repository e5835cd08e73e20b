//! What the command line asks for.

use std::path::PathBuf;

use llm_router::runtime::Preference;

use super::Failure;

/// One of the things that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Unary,
    Sse,
    Bodies,
    Memory,
    Latency,
    Overload,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) subjects: Vec<Subject>,
    /// Whether the subjects are parts of the comparison with everything else.
    pub(crate) compare: bool,
    /// Rounds of each contender; `None`: as many as the subject usually takes.
    pub(crate) rounds: Option<usize>,
    /// The router's I/O driver, also the bare relay's.
    pub(crate) io_driver: Preference,
    /// Whether a second router takes part that writes access records to a file.
    pub(crate) access_log: bool,
    /// The router to measure.
    pub(crate) router: PathBuf,
    /// Whether the tables go to `benches/results/`.
    pub(crate) save: bool,
}

impl Subject {
    /// What is measured beside nginx and the bare relay.
    const ALONE: [Self; 4] = [Self::Unary, Self::Sse, Self::Bodies, Self::Memory];

    /// The parts of the comparison.
    const COMPARED: [Self; 6] = [
        Self::Unary,
        Self::Bodies,
        Self::Sse,
        Self::Latency,
        Self::Overload,
        Self::Memory,
    ];

    /// All of them, in the comparison or beside nginx alone.
    const fn of(compare: bool) -> &'static [Self] {
        if compare {
            &Self::COMPARED
        } else {
            &Self::ALONE
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = Self::ALONE.into_iter().chain(Self::COMPARED);
        all.into_iter().find(|subject| subject.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Sse => "sse",
            Self::Bodies => "bodies",
            Self::Memory => "memory",
            Self::Latency => "latency",
            Self::Overload => "overload",
        }
    }
}

impl Options {
    /// Reads the arguments; `None` if there is nothing to run.
    ///
    /// # Errors
    /// What is wrong with them, and the usage.
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let mut options = Self {
            subjects: Vec::new(),
            compare: false,
            rounds: None,
            io_driver: Preference::Auto,
            access_log: false,
            router: PathBuf::from(env!("CARGO_BIN_EXE_llm-router")),
            save: false,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))
            };
            match argument.as_str() {
                // What cargo adds.
                "--bench" => {}
                // Test runners ask every target for its tests; there are none here.
                "--list" | "--test" => return Ok(None),
                "--rounds" => options.rounds = Some(value()?.parse::<usize>()?.max(1)),
                "--io-driver" => options.io_driver = driver(&value()?)?,
                "--router" => options.router = PathBuf::from(value()?),
                "--access-log" => options.access_log = true,
                "--save" => options.save = true,
                "compare" => options.compare = true,
                "all" => options.subjects.extend(Subject::of(options.compare)),
                name => match Subject::named(name) {
                    Some(subject) => options.subjects.push(subject),
                    None => return Err(format!("unknown argument {name}\n{USAGE}").into()),
                },
            }
        }
        if options.subjects.is_empty() {
            options.subjects.extend(Subject::of(options.compare));
        }
        options.subjects.dedup();
        Ok(Some(options))
    }

    /// The driver's name as the router's configuration spells it.
    pub(crate) const fn io_driver_name(&self) -> &'static str {
        match self.io_driver {
            Preference::Auto => "auto",
            Preference::IoUring => "io_uring",
            Preference::Epoll => "epoll",
        }
    }
}

/// The driver of this name.
pub(crate) fn driver(name: &str) -> Result<Preference, Failure> {
    match name {
        "auto" => Ok(Preference::Auto),
        "io_uring" => Ok(Preference::IoUring),
        "epoll" => Ok(Preference::Epoll),
        _ => Err(format!("--io-driver is auto, io_uring or epoll, not {name}").into()),
    }
}

const USAGE: &str = "\
usage: cargo bench --bench proxy -- [unary] [sse] [bodies] [memory] [all]
       cargo bench --bench proxy -- compare [unary] [bodies] [sse] [latency] [overload] [memory]
    --rounds N         rounds per contender
    --io-driver NAME   auto, io_uring or epoll
    --access-log       let a second router take part that writes access records to a file
    --router FILE      measure this binary instead of the one just built
    --save             write the tables to benches/results/";
