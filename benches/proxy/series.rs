//! Interleaved rounds, and what can be said about them: medians, and medians of ratios within a round.

use std::time::Duration;

use super::Failure;
use super::contender::Contender;

/// What one round of one contender gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Requests or events.
    pub(crate) unit_count: u64,
    pub(crate) seconds: f64,
    /// CPU time of the contender during the round, if it can be told.
    pub(crate) cpu: Option<Duration>,
    /// Latency, or the gap between two events of a stream.
    pub(crate) latency: Percentiles,
    /// From the request to the first byte of a stream.
    pub(crate) first_byte: Option<Percentiles>,
    /// Requests answered with a refusal, which are not among the units.
    pub(crate) refused_count: u64,
}

/// How long something took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: f64,
    pub(crate) p75_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
}

/// The rounds of one measurement.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) subject: &'static str,
    /// What varies within the subject, such as the size of bodies.
    pub(crate) case: String,
    /// What is counted: `request` or `event`.
    pub(crate) unit: &'static str,
    pub(crate) names: Vec<&'static str>,
    /// Per round, the outcome of each name.
    pub(crate) rounds: Vec<Vec<Outcome>>,
}

/// A median with the extremes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Outcome {
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        let micros = self.cpu?.as_secs_f64() * 1e6;
        Some(micros / self.unit_count.max(1) as f64)
    }

    pub(crate) fn rate(&self) -> f64 {
        self.unit_count as f64 / self.seconds
    }

    /// Refused requests among all, 0 to 1.
    pub(crate) fn refused_share(&self) -> f64 {
        let all = self.unit_count + self.refused_count;
        self.refused_count as f64 / all.max(1) as f64
    }
}

impl Percentiles {
    /// Those of values in microseconds, which are sorted for it; zeros if there are none.
    pub(crate) fn of_us(values: &mut [u32]) -> Self {
        values.sort_unstable();
        let at = |percent: usize| {
            let value = values.get(values.len() * percent / 100);
            f64::from(value.copied().unwrap_or_default()) / 1000.0
        };
        Self {
            p50_ms: at(50),
            p75_ms: at(75),
            p90_ms: at(90),
            p95_ms: at(95),
            p99_ms: at(99),
        }
    }
}

impl Series {
    /// Lets the contenders take turns, in alternating order, after a round each that does not count.
    pub(crate) fn measure(
        (subject, case, unit): (&'static str, &str, &'static str),
        contenders: &[Contender],
        round_count: usize,
        mut round: impl FnMut(&Contender) -> Result<Outcome, Failure>,
    ) -> Result<Self, Failure> {
        let mut rounds = Vec::with_capacity(round_count);
        for index in 0..=round_count {
            let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(contenders.len());
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if index % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let Some(contender) = contenders.get(at) else {
                    continue;
                };
                let outcome = round(contender)
                    .map_err(|error| format!("{subject} {case}, {}: {error}", contender.name))?;
                outcomes.push((at, outcome));
            }
            outcomes.sort_by_key(|(at, _)| *at);
            if index > 0 {
                rounds.push(outcomes.into_iter().map(|(_, outcome)| outcome).collect());
            }
        }
        Ok(Self {
            subject,
            case: case.to_owned(),
            unit,
            names: contenders.iter().map(|contender| contender.name).collect(),
            rounds,
        })
    }

    /// A figure of one contender over the rounds.
    pub(crate) fn spread(
        &self,
        name: &str,
        figure: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Spread> {
        let at = self.place(name)?;
        let outcomes = self.rounds.iter().filter_map(|round| round.get(at));
        Spread::of(outcomes.filter_map(figure).collect())
    }

    /// CPU per unit of `name` divided by that of `base` in the same round.
    pub(crate) fn ratio(&self, name: &str, base: &str) -> Option<Spread> {
        self.ratio_of(name, base, Outcome::cpu_us)
    }

    /// A figure of `name` divided by that of `base` in the same round.
    pub(crate) fn ratio_of(
        &self,
        name: &str,
        base: &str,
        figure: impl Fn(&Outcome) -> Option<f64>,
    ) -> Option<Spread> {
        let (at, base) = (self.place(name)?, self.place(base)?);
        let ratios = self
            .rounds
            .iter()
            .filter_map(|round| Some(figure(round.get(at)?)? / figure(round.get(base)?)?));
        Spread::of(ratios.collect())
    }

    /// A figure of `name` less that of `base` in the same round.
    pub(crate) fn difference(
        &self,
        name: &str,
        base: &str,
        figure: impl Fn(&Outcome) -> f64,
    ) -> Option<Spread> {
        let (at, base) = (self.place(name)?, self.place(base)?);
        let differences = self
            .rounds
            .iter()
            .filter_map(|round| Some(figure(round.get(at)?) - figure(round.get(base)?)));
        Spread::of(differences.collect())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|candidate| *candidate == name)
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self {
            median: (lower + upper) / 2.0,
            min,
            max,
        })
    }
}
