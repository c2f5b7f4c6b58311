//! finalize-routes: removes ended routes that were deleted.

use super::{Decide, Handler, HandlerName, ROW as BASE, Verdict};
use crate::api::{FINALIZER_ROUTE, RoutePhase};
use crate::route::effect::Effect;
use crate::route::snapshot::{RouteItem, Snapshot};

pub static ROW: Handler = Handler {
    name: HandlerName::FinalizeRoutes,
    targets: &[RoutePhase::Terminated, RoutePhase::Failed],
    decide: Decide::Each(finalize),
    ..BASE
};

fn finalize(_: &Snapshot, item: &RouteItem) -> Verdict {
    let is_held = item.route.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER_ROUTE);
    // The session of a route that failed may still be ending.
    if !item.is_deleted() || !is_held || !item.replica().has_ended() {
        return Verdict::idle();
    }
    let owned = |session: &crate::api::Session| session.metadata.owner_references.iter().flatten().next().is_some();
    let abandoned = item.session.as_ref().filter(|session| !owned(session) && !session.is_deleted());
    Verdict::idle().effects(abandoned.map(|_| Effect::DeleteSession).into_iter().chain([Effect::ReleaseRoute]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SessionPhase;
    use crate::route::handlers::testing::{Replica as Case, snapshot};

    #[test]
    fn a_deleted_route_is_released_once_its_session_has_ended() {
        let effects = |case: Case| finalize(&snapshot(), &case.item()).effects;
        let failed = || Case::new(RoutePhase::Failed);
        assert_eq!(effects(failed().session(SessionPhase::Terminated)), [], "its logs are kept");
        assert_eq!(effects(failed().session(SessionPhase::Terminating).deleted()), []);
        assert_eq!(effects(failed().session(SessionPhase::Terminated).deleted()), [Effect::ReleaseRoute]);
        assert_eq!(effects(failed().deleted()), [Effect::ReleaseRoute]);
    }
}
