//! SIGTERM and SIGINT: what they do before a command takes them over, and how one does so.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{SignalKind, signal};

/// Whether a signal ends the process at once, which it does until a command takes signals over.
static ENDS: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// Lets SIGTERM and SIGINT end the process although it is the first of its container.
///
/// The kernel drops signals for which process 1 has no handler (pid_namespaces(7)). Any other process is left as it is:
/// a shell wants to see that the signal ended it.
///
/// # Errors
/// Fails when the system refuses a handler.
pub fn end_as_first_process() -> io::Result<()> {
    if std::process::id() == 1 {
        for number in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(number, exit_status(number), Arc::clone(&ENDS))?;
        }
    }
    Ok(())
}

/// Takes the signals over: the first one sets the flag that is returned, and a second one ends the process at once.
///
/// Both happen in the signal's handler, because work may occupy every thread for minutes.
///
/// # Errors
/// Fails when the system refuses a handler.
pub(super) fn first_sets_flag() -> io::Result<Arc<AtomicBool>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        // Handlers run in this order, so the first signal finds the flag unset and sets it.
        flag::register_conditional_shutdown(number, exit_status(number), Arc::clone(&stopping))?;
        flag::register(number, Arc::clone(&stopping))?;
    }
    ENDS.store(false, Ordering::Relaxed);
    Ok(stopping)
}

/// The signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, which supervisors send.
    Terminate,
    /// SIGINT, by whoever presses Ctrl-C.
    Interrupt,
}

/// Takes the signals over: they do nothing but resolve the future. Runs within a runtime.
///
/// # Errors
/// Fails when the system refuses a handler.
pub(super) fn first_signal() -> io::Result<impl Future<Output = Signal> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    ENDS.store(false, Ordering::Relaxed);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Interrupt,
        }
    })
}

/// The exit status that a shell reports for a process that a signal has ended.
fn exit_status(number: i32) -> i32 {
    128 + number
}
