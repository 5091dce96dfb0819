//! Removing what nobody needs any more.
//!
//! Guarantees: what a kept backup needs, and what a backup or restore under way uses, stays, whatever runs at the same
//! time and whoever dies when (docs/repository-format.md, "Who may remove what"). Does not know: why something is kept.

use crate::Error;
use crate::id::{self, BackupId, CONDEMNED, PACKS, PINS, PROOFS, PackId};
use crate::manifest::{self, Summary};
use crate::pin::{ABANDONED_MS, Owner, PinText};
use crate::repository::Repository;
use crate::retention::{self, Reason, Retention};
use crate::storage::{self, Storage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A backup may stand so far behind the time at which it was made: its replica's lag, and what two hosts' clocks differ.
const LOG_MARGIN_MS: u64 = 86_400_000;

/// What a removal under way is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condemned {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
    pub(crate) backups: BTreeSet<BackupId>,
    pub(crate) packs: BTreeSet<PackId>,
}

impl Condemned {
    /// What is condemned now.
    pub(crate) fn read(storage: &dyn Storage) -> Result<Condemned, Error> {
        match storage.read(CONDEMNED) {
            Ok(text) => Ok(manifest::decode::<Condemned>(CONDEMNED, &text)?.of_the_living()),
            Err(storage::Error::Absent(_)) => Ok(Condemned::default()),
            Err(e) => Err(e.into()),
        }
    }

    /// Nothing, if its remover has certainly ended: nobody removes it any more.
    fn of_the_living(self) -> Condemned {
        let ended = self.owner.as_ref().is_some_and(Owner::has_ended);
        if ended { Condemned::default() } else { self }
    }
}

/// What a prune is to do.
#[derive(Debug, Clone, Default)]
pub struct Prune {
    /// Of these services backups are removed, by these rules; others keep all of theirs.
    pub retention: BTreeMap<String, Retention>,
    pub now_unix_ms: u64,
    pub dry_run: bool,
    /// Finish the work of a prune on another host that is certainly over.
    pub take_over: bool,
}

/// What a prune did, or would do.
#[derive(Debug, Default)]
pub struct Pruned {
    pub kept: Vec<(Summary, BTreeSet<Reason>)>,
    pub removed: Vec<Summary>,
    pub packs: usize,
    pub bytes: u64,
    /// Parts of kept logs that are older than every backup that stays.
    pub log_objects: usize,
    /// Kept logs of which nothing was removed, because they cannot be read as a whole: service and reason.
    pub logs_unclear: Vec<(String, Error)>,
    /// Pins of processes that are gone.
    pub stale_pins: usize,
}

/// What is in use now.
#[derive(Default)]
struct Pinned {
    backups: BTreeSet<BackupId>,
    stale: Vec<String>,
}

impl Repository {
    /// Removes what the rules do not keep, and what interrupted backups left.
    pub fn prune(&self, prune: &Prune) -> Result<Pruned, Error> {
        if !prune.dry_run {
            self.take_over(prune.take_over)?;
        }
        let mut first = self.judge(prune, None)?;
        if prune.dry_run {
            self.prune_logs(prune, &mut first.0)?;
            return Ok(first.0);
        }
        let condemned = first.1;
        self.condemn(&condemned)?;
        // What the storage's clock says.
        let now = self.storage.stat(CONDEMNED)?.modified_unix_ms;
        // Looked at again: who came after the first look has either been seen now, or has seen what is condemned.
        let (mut pruned, certain) = self.judge(prune, Some(&condemned))?;
        self.remove(&certain)?;
        self.prune_logs(prune, &mut pruned)?;
        pruned.stale_pins = self.remove_stale_pins(now)?;
        for prefix in [PINS, id::BACKUPS, PACKS, PROOFS, id::LOGS] {
            self.storage.sweep(prefix, now - ABANDONED_MS)?;
        }
        self.storage.remove(CONDEMNED)?;
        Ok(pruned)
    }

    /// A log is of use only after a backup: of each service, what is older than its oldest backup that stays goes. Where
    /// there is no backup, all of it may be wanted for one that is elsewhere, and stays.
    fn prune_logs(&self, prune: &Prune, pruned: &mut Pruned) -> Result<(), Error> {
        for service in prune.retention.keys() {
            let of = pruned.kept.iter().filter(|(b, _)| b.service == *service);
            let Some(oldest) = of.map(|(b, _)| b.started_unix_ms).min() else { continue };
            let old = match self.logs_before(service, oldest.saturating_sub(LOG_MARGIN_MS)) {
                Ok(old) => old,
                Err(e @ Error::Storage(_)) => return Err(e),
                // What of a log is damaged or beyond a limit can be removed by hand; the rest of the prune is done.
                Err(e) => {
                    pruned.logs_unclear.push((service.clone(), e));
                    continue;
                }
            };
            for (name, bytes) in old {
                (pruned.log_objects, pruned.bytes) = (pruned.log_objects + 1, pruned.bytes + bytes);
                if !prune.dry_run {
                    self.storage.remove(&name)?;
                }
            }
        }
        Ok(())
    }

    /// A prune that was interrupted leaves its list; its work is done again from the start.
    fn take_over(&self, forced: bool) -> Result<(), Error> {
        let text = match self.storage.read(CONDEMNED) {
            Err(storage::Error::Absent(_)) => return Ok(()),
            text => text?,
        };
        let condemned: Condemned = manifest::decode(CONDEMNED, &text)?;
        match condemned.owner {
            Some(owner) if !owner.has_ended() && !forced => Err(Error::PruneUnderWay(owner.to_string())),
            _ => Ok(self.storage.remove(CONDEMNED)?),
        }
    }

    fn condemn(&self, condemned: &Condemned) -> Result<(), Error> {
        let condemned = Condemned { owner: Some(Owner::me()), ..condemned.clone() };
        match self.storage.create(CONDEMNED, manifest::encode(&condemned)) {
            Err(storage::Error::Exists(_)) => Err(Error::PruneUnderWay("it began just now".into())),
            done => Ok(done?),
        }
    }

    /// What can go, of `only` if given. Lists the packs first, then reads the pins, then the manifests: a writer has a pin
    /// before it puts packs, and puts its manifest before it takes its pin away. So no pack of a live one is condemned.
    fn judge(&self, prune: &Prune, only: Option<&Condemned>) -> Result<(Pruned, Condemned), Error> {
        let packs = self.storage.list(PACKS)?;
        let pinned = self.pinned(None)?;
        let listing = self.list(None)?;
        if let Some((name, e)) = listing.unreadable.first() {
            return Err(Error::Unsure(format!("{name}: {e}")));
        }
        let mut kept: BTreeMap<BackupId, BTreeSet<Reason>> = BTreeMap::new();
        for (service, policy) in &prune.retention {
            let of: Vec<Summary> =
                listing.backups.iter().filter(|b| b.service == *service).cloned().collect();
            let proofs = self.proofs(service)?;
            kept.extend(retention::keep(&of, &|id| proofs.proven(id), policy, prune.now_unix_ms));
        }
        let mut pruned = Pruned { stale_pins: pinned.stale.len(), ..Pruned::default() };
        let (mut condemned, mut needed) = (Condemned::default(), BTreeSet::new());
        for backup in listing.backups {
            let mut reasons = kept.remove(&backup.id).unwrap_or_default();
            if pinned.backups.contains(&backup.id) {
                reasons.insert(Reason::InUse);
            }
            let ruled = prune.retention.contains_key(&backup.service);
            let fresh = only.is_some_and(|o| !o.backups.contains(&backup.id));
            if ruled && reasons.is_empty() && !fresh {
                condemned.backups.insert(backup.id.clone());
                pruned.removed.push(backup);
            } else {
                needed.extend(backup.packs.iter().map(|p| p.id.clone()));
                pruned.kept.push((backup, reasons));
            }
        }
        for object in packs {
            let Some(pack) = PackId::of_object(&object.name) else { continue };
            let in_use = needed.contains(&pack) || pinned.backups.contains(&pack.backup);
            if !in_use && only.is_none_or(|o| o.packs.contains(&pack)) {
                condemned.packs.insert(pack);
                pruned.packs += 1;
                pruned.bytes += object.bytes;
            }
        }
        Ok((pruned, condemned))
    }

    /// Reads every pin. A pin of a process that has ended, or at `now` was silent for a day, pins nothing.
    fn pinned(&self, now: Option<i64>) -> Result<Pinned, Error> {
        let mut pinned = Pinned::default();
        for object in self.storage.list(PINS)? {
            let text = match self.storage.read(&object.name) {
                // Its work was done meanwhile. If that was a backup, its manifest is there by now.
                Err(storage::Error::Absent(_)) => continue,
                text => text?,
            };
            let pin: PinText = manifest::decode(&object.name, &text)
                .map_err(|e| Error::Unsure(format!("{}: {e}", object.name)))?;
            let silent = now.is_some_and(|now| now - object.modified_unix_ms > ABANDONED_MS);
            if pin.owner.has_ended() || silent {
                pinned.stale.push(object.name);
            } else {
                pinned.backups.extend(pin.uses);
            }
        }
        Ok(pinned)
    }

    /// Manifests first: a manifest whose packs are gone would be a broken backup, packs without one are only waste.
    fn remove(&self, certain: &Condemned) -> Result<(), Error> {
        for object in self.storage.list(id::BACKUPS)? {
            let Some((service, backup)) = id::of_manifest_object(&object.name) else { continue };
            if certain.backups.contains(&backup) {
                self.storage.remove(&object.name)?;
                for proof in self.storage.list(&format!("{PROOFS}/{service}/{backup}"))? {
                    self.storage.remove(&proof.name)?;
                }
            }
        }
        for pack in &certain.packs {
            self.storage.remove(&pack.object())?;
        }
        let writers: BTreeSet<&BackupId> = certain.packs.iter().map(|p| &p.backup).collect();
        for writer in writers {
            self.storage.sweep(&format!("{PACKS}/{writer}"), i64::MAX)?;
        }
        Ok(())
    }

    /// What they pinned goes with the next prune: should their holder wake up before, it finds its pin gone.
    fn remove_stale_pins(&self, now: i64) -> Result<usize, Error> {
        let stale = self.pinned(Some(now))?.stale;
        for pin in &stale {
            self.storage.remove(pin)?;
        }
        Ok(stale.len())
    }
}
