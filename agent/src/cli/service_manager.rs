//! What the agent tells systemd, where that started it (`Type=notify`): ready, reloading, stopping, alive. See sd_notify(3).
//! Without one, nothing happens.

use sd_notify::NotifyState;

use crate::pipeline::Pulse;

/// It serves, or has taken a configuration over.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its configuration again.
pub fn reloading() {
    // Without the time the message says less, and is right.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// It was asked to end, and does.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// How often the service manager wants to hear that the agent is alive (`WatchdogSec=`); none if it does not.
pub fn pulse() -> Option<Pulse> {
    // sd_watchdog_enabled(3): half of the time after which the agent counts as dead.
    let every = sd_notify::watchdog_enabled()? / 2;
    Some(Pulse { every, beat: || tell(&[NotifyState::Watchdog]) })
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the service manager {state:?}: {error}; it may take this agent for dead");
    }
}
