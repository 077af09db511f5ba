//! Questions about alerts, handed to the alerter if there is one. Knows what must not hold up the windows.

use crate::{
    alert::{self, Alerter, Outcome},
    model::alert::{AlertOrder, AlertQuestion, AlertRefused, Tried},
};

/// What came of a notice; without an alerter nothing ever does.
pub async fn outcome(alerter: Option<&mut Alerter>) -> Outcome {
    if let Some(alerter) = alerter
        && let Some(outcome) = alerter.outcome().await
    {
        return outcome;
    }
    std::future::pending().await
}

/// What rules would have come to in the windows of a file.
///
/// # Errors
/// What is wrong with either.
pub fn try_on_file(windows: &[u8], rules: &str) -> Result<Tried, AlertRefused> {
    alert::try_on_file(windows, rules)
}

/// Answers a question.
pub fn answer(alerter: Option<&mut Alerter>, question: AlertQuestion, now_unix_ms: u64) {
    let alerter = alerter.ok_or(AlertRefused::Disabled);
    match question {
        AlertQuestion::List(answer) => drop(answer.send(alerter.map(|alerter| alerter.list()))),
        AlertQuestion::Order(AlertOrder::Test { rules }, answer) => match alerter {
            Ok(alerter) => {
                let trial = alerter.try_out(rules);
                tokio::task::spawn_blocking(move || drop(answer.send(trial())));
            }
            Err(refused) => drop(answer.send(Err(refused))),
        },
        AlertQuestion::Order(AlertOrder::Record {}, answer) => match alerter {
            Ok(alerter) => {
                let recorded = alerter.recorded();
                tokio::task::spawn_blocking(move || drop(answer.send(recorded())));
            }
            Err(refused) => drop(answer.send(Err(refused))),
        },
        AlertQuestion::Order(order, answer) => {
            drop(answer.send(alerter.and_then(|alerter| alerter.obey(order, now_unix_ms))));
        }
    }
}
