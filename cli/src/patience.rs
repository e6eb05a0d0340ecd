//! Work that may take long says so on standard error, where it does not mix with what a program reads.

use crate::output;
use std::pin::pin;
use std::time::Duration;

/// What is done sooner needs no word.
const SOON: Duration = Duration::from_secs(1);
/// Between words on the same work.
const EVERY: Duration = Duration::from_secs(15);

/// Waits for work, and says what is waited for as long as it takes.
pub(crate) async fn wait_for<T>(what: &str, work: impl Future<Output = T>) -> T {
    let told = |waited: Duration| output::remark(format_args!("{what}, for {} s now …", waited.as_secs()));
    telling([SOON, EVERY], told, work).await
}

async fn telling<T>(
    [first, then]: [Duration; 2],
    tell: impl Fn(Duration),
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let (mut waited, mut next) = (Duration::ZERO, first);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(next) => {
                waited += next;
                next = then;
                tell(waited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn what_takes_long_is_told_of_and_waited_for() {
        let told = Cell::new(0);
        let tell = |_| told.set(told.get() + 1);
        let soon = [Duration::from_secs(60); 2];
        assert_eq!((telling(soon, tell, async { 7 }).await, told.get()), (7, 0));
        let work = async {
            while told.get() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            7
        };
        assert_eq!(telling([Duration::from_millis(1); 2], tell, work).await, 7);
    }
}
