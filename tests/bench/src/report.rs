//! What a driver found: figures with their spread, held against the numbers that they are to reach.

use serde_json::{Value, json};
use std::fmt;

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// One number.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    what: String,
    unit: &'static str,
    value: f64,
    /// Least and greatest of the rounds.
    spread: Option<(f64, f64)>,
    goal: Option<Goal>,
}

impl Figure {
    /// A number that was measured once.
    pub(crate) fn of(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { what: what.into(), unit, value, spread: None, goal: None }
    }

    /// The median of several rounds.
    pub(crate) fn median(what: impl Into<String>, unit: &'static str, rounds: &[f64]) -> Self {
        let (low, high) = (quantile(rounds, 0.0), quantile(rounds, 1.0));
        Self { spread: Some((low, high)), ..Self::of(what, unit, quantile(rounds, 0.5)) }
    }

    /// DESIGN 10 names this as the least.
    pub(crate) fn at_least(self, least: f64) -> Self {
        Self { goal: Some(Goal::AtLeast(least)), ..self }
    }

    /// DESIGN 10 names this as the most.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { goal: Some(Goal::AtMost(most)), ..self }
    }

    fn reached(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtLeast(least) => self.value >= least,
            Goal::AtMost(most) => self.value <= most,
        })
    }

    fn verdict(&self) -> String {
        let Some((goal, reached)) = self.goal.zip(self.reached()) else { return String::new() };
        let word = if reached { "reached" } else { "MISSED" };
        match goal {
            Goal::AtLeast(least) => format!("at least {}: {word}", number(least)),
            Goal::AtMost(most) => format!("at most {}: {word}", number(most)),
        }
    }

    fn spread(&self) -> String {
        self.spread.map(|(low, high)| format!("({} to {})", number(low), number(high))).unwrap_or_default()
    }

    fn json(&self) -> Value {
        let mut value = json!({ "what": self.what, "unit": self.unit, "value": self.value });
        if let Some((low, high)) = self.spread {
            value["low"] = json!(low);
            value["high"] = json!(high);
        }
        match self.goal {
            Some(Goal::AtLeast(least)) => value["atLeast"] = json!(least),
            Some(Goal::AtMost(most)) => value["atMost"] = json!(most),
            None => {}
        }
        if let Some(reached) = self.reached() {
            value["reached"] = json!(reached);
        }
        value
    }
}

/// What one driver found.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    title: String,
    figures: Vec<Figure>,
    remarks: Vec<String>,
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), figures: Vec::new(), remarks: Vec::new() }
    }

    /// Adds a figure; ratios come first.
    pub(crate) fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a sentence about how it was measured.
    pub(crate) fn remark(&mut self, sentence: impl Into<String>) {
        self.remarks.push(sentence.into());
    }

    /// Runs that are too short for numbers are not judged.
    pub(crate) fn without_goals(mut self) -> Self {
        self.figures.iter_mut().for_each(|figure| figure.goal = None);
        self.remark("a smoke run: the drivers work, the numbers mean nothing");
        self
    }

    pub(crate) fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        json!({ "title": self.title, "figures": figures, "remarks": self.remarks })
    }

    /// The figures that have a number to reach, for a summary.
    pub(crate) fn judged(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.goal.is_some())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        write!(f, "{}", Table(self.figures.iter().collect()))?;
        self.remarks.iter().try_for_each(|remark| writeln!(f, "  note: {remark}"))
    }
}

/// Figures below each other.
pub(crate) struct Table<'a>(pub(crate) Vec<&'a Figure>);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        self.0.iter().try_for_each(|figure| {
            let value = format!("{} {}", number(figure.value), figure.unit);
            let line = format!(
                "  {:<width$}  {:<16} {:<22} {}",
                figure.what,
                value.trim_end(),
                figure.spread(),
                figure.verdict()
            );
            writeln!(f, "{}", line.trim_end())
        })
    }
}

/// Three significant digits below 1,000; whole numbers in groups of three above.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 {
        let digits = format!("{magnitude:.0}");
        let mut grouped = String::new();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return if value < 0.0 { format!("-{grouped}") } else { grouped };
    }
    let decimals = match magnitude {
        m if m == m.trunc() => 0,
        m if m >= 100.0 => 0,
        m if m >= 10.0 => 1,
        m if m >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// The value below which a share of the samples lies (nearest rank); NaN where there are none.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 0.5), 50.0);
        assert_eq!(quantile(&samples, 0.99), 99.0);
        assert_eq!(quantile(&samples, 1.0), 100.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_missed_number_is_said() {
        let figure = Figure::median("ratio", "", &[0.7, 0.74, 0.8]).at_least(0.75);
        assert_eq!(figure.verdict(), "at least 0.75: MISSED");
        assert_eq!(Figure::of("p99", "ms", 50.0).at_most(50.0).verdict(), "at most 50: reached");
        // A figure without samples is no number, and reaches nothing.
        assert_eq!(Figure::median("p99", "ms", &[]).at_most(50.0).reached(), Some(false));
    }

    #[test]
    fn numbers_are_for_people() {
        let shown: Vec<String> = [1234567.8, 1000.0, 250.0, 12.34, 0.756, 0.01234, 0.0].map(number).into();
        assert_eq!(shown, ["1,234,568", "1,000", "250", "12.3", "0.76", "0.0123", "0"]);
    }
}
