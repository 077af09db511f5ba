//! Settings that an admin asks for or changes. A change lasts until the configuration is read again.

use crate::{
    config::{Config, keys::KEYS},
    model::{
        catalog::steth::RELOADS,
        settings::{Setting, SettingOrder, SettingRefused, Settings},
        snapshot::Series,
    },
};

/// How often the configuration was read again, and what came of it.
#[derive(Debug, Default)]
pub struct Reloads {
    /// What may change live is as it says.
    pub taken_over: u64,
    /// Something in it is wrong: the one before stays.
    pub refused: u64,
}

impl Reloads {
    /// The series of this moment.
    pub fn series(&self) -> [Series; 2] {
        [("taken_over", self.taken_over), ("refused", self.refused)]
            .map(|(outcome, count)| Series::number(&RELOADS, vec![outcome.into()], count as f64))
    }
}

/// All settings.
pub fn list(config: &Config) -> Settings {
    let setting = |key: &crate::config::keys::Key| Setting {
        key: key.path.to_owned(),
        value: key.shape.show(config),
        allowed: key.shape.allowed(),
        live: key.is_settable(),
    };
    Settings { settings: KEYS.iter().map(setting).collect() }
}

/// The configuration with a change, and the setting as it is then.
///
/// # Errors
/// If it cannot be changed, or not to this.
pub fn change(config: &Config, order: &SettingOrder) -> Result<(Config, Setting), SettingRefused> {
    let wrong = |error: crate::config::Complaints| SettingRefused::Wrong(error.to_string());
    if let Some(key) = KEYS.iter().find(|key| key.path == order.key)
        && !key.is_settable()
    {
        return Err(SettingRefused::OnlyInFile(order.key.clone()));
    }
    let mut next = config.with(&order.key, &order.value).map_err(wrong)?;
    // Files of rules are read anew as well; what was wrong at the start may still be.
    if next.alerts.left_out != config.alerts.left_out {
        next = next.whole().map_err(wrong)?;
    }
    let set = list(&next).settings.into_iter().find(|setting| setting.key == order.key);
    let set = set.ok_or_else(|| SettingRefused::Wrong(format!("there is no key {}", order.key)))?;
    Ok((next, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(key: &str, value: &str) -> SettingOrder {
        SettingOrder { key: key.into(), value: value.into() }
    }

    #[test]
    fn what_can_change_live_is_changed_and_nothing_that_names_files() {
        let config = Config::default();
        let (next, set) = change(&config, &order("probes.wall", "false")).unwrap();
        assert!(!next.probes.wall && set.value == "false" && set.live);
        for key in ["listen", "http.tokens", "alerts.files", "profile.folder", "send.to", "log.level", "audit.what"] {
            assert_eq!(
                change(&config, &order(key, "/etc/shadow")),
                Err(SettingRefused::OnlyInFile(key.into())),
                "{key}"
            );
        }
        let without = change(&config, &order("alerts.without", "[\"nobody\"]"));
        assert!(matches!(without, Err(SettingRefused::Wrong(_))), "{without:?}");
        for (key, value) in [("probes.wall", "maybe"), ("nothing", "1"), ("budget.hard", "0.1%")] {
            assert!(matches!(change(&config, &order(key, value)), Err(SettingRefused::Wrong(_))), "{key}");
        }
    }
}
