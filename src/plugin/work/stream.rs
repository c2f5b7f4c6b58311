//! Streams into pods, which kube does not close when the connection is lost.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

/// How long output may follow the loss of a connection.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Waits until a program has ended and its output is read, or the connection is lost. Then there is no status, and no end of the output.
pub async fn until_ended<T, E>(
    status: Option<impl Future<Output = Option<Status>>>,
    output: impl Future<Output = Result<T, E>>,
) -> (Option<Status>, Option<Result<T, E>>) {
    let status = async {
        match status {
            Some(status) => status.await,
            None => None,
        }
    };
    let (mut status, mut output) = (std::pin::pin!(status), std::pin::pin!(output));
    tokio::select! {
        biased;
        ended = &mut status => match ended {
            Some(ended) => (Some(ended), Some(output.await)),
            None => (None, tokio::time::timeout(LAST_OUTPUT, output).await.ok()),
        },
        read = &mut output => match read {
            Ok(read) => (status.await, Some(Ok(read))),
            Err(error) => (None, Some(Err(error))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    type Read = Result<(), std::io::Error>;

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_and_a_closed_output_end_the_wait() {
        let lost = until_ended(Some(ready(None)), pending::<Read>()).await;
        assert!(lost.0.is_none() && lost.1.is_none());
        let closed: Read = Err(std::io::ErrorKind::BrokenPipe.into());
        let closed = until_ended(Some(pending()), ready(closed)).await;
        assert!(matches!(closed, (None, Some(Err(_)))));
        let ended = until_ended(Some(ready(Some(Status::default()))), ready(Read::Ok(()))).await;
        assert!(matches!(ended, (Some(_), Some(Ok(())))));
    }
}
