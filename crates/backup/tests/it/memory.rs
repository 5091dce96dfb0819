//! A storage in memory, seen through the eyes of one actor: an actor can be made to wait for its turn before each call,
//! to fail, and to die.

use holdfast_backup::Storage;
use holdfast_backup::storage::{Error, Listed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Objects with the time at which they were last written.
pub type Objects = Arc<Mutex<BTreeMap<String, (Vec<u8>, i64)>>>;

/// What happens before each call of an actor: `Err` makes the call fail without effect.
pub type Before = Arc<dyn Fn(&'static str, &str) -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
pub struct Memory {
    pub objects: Objects,
    pub before: Before,
    /// The storage's clock.
    pub now: Arc<Mutex<i64>>,
    /// Sabotage: what is below this name is neither written nor seen.
    pub blind_to: Option<&'static str>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory {
            objects: Objects::default(),
            before: Arc::new(|_, _| Ok(())),
            now: Arc::default(),
            blind_to: None,
        }
    }
    /// The same objects, through other eyes.
    pub fn seen(
        &self,
        before: impl Fn(&'static str, &str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Memory {
        Memory { before: Arc::new(before), ..self.clone() }
    }
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
    /// Another storage with the same content.
    pub fn copy(&self) -> Memory {
        let objects = self.objects.lock().unwrap().clone();
        Memory { objects: Arc::new(Mutex::new(objects)), ..Memory::new() }
    }
    fn blind(&self, name: &str) -> bool {
        self.blind_to.is_some_and(|prefix| name.starts_with(prefix))
    }
    fn call(&self, doing: &'static str, name: &str) -> Result<(), Error> {
        let failed = |why: String| Error::Failed { doing, name: name.into(), source: why.into() };
        (self.before)(doing, name).map_err(failed)
    }
}

impl Storage for Memory {
    fn create(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        self.call("writing", name)?;
        if self.blind(name) {
            return Ok(());
        }
        let mut objects = self.objects.lock().unwrap();
        if objects.contains_key(name) {
            return Err(Error::Exists(name.into()));
        }
        objects.insert(name.into(), (object, *self.now.lock().unwrap()));
        Ok(())
    }
    fn replace(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        self.call("writing", name)?;
        self.objects.lock().unwrap().insert(name.into(), (object, *self.now.lock().unwrap()));
        Ok(())
    }
    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.read_range(name, 0, u64::MAX)
    }
    fn read_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        self.call("reading", name)?;
        if self.blind(name) && name == "condemned" {
            return Err(Error::Absent(name.into()));
        }
        if self.blind(name) {
            return Ok(Vec::new());
        }
        let objects = self.objects.lock().unwrap();
        let (bytes, _) = objects.get(name).ok_or_else(|| Error::Absent(name.into()))?;
        Ok(bytes.iter().skip(offset as usize).take(length.min(1 << 40) as usize).copied().collect())
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        self.call("listing", prefix)?;
        let objects = self.objects.lock().unwrap();
        let below = |name: &&String| prefix.is_empty() || name.starts_with(&format!("{prefix}/"));
        let listed = |name: &String| {
            let (bytes, modified) = &objects[name];
            Listed { name: name.clone(), bytes: bytes.len() as u64, modified_unix_ms: *modified }
        };
        Ok(objects.keys().filter(below).map(listed).collect())
    }
    fn stat(&self, name: &str) -> Result<Listed, Error> {
        self.call("looking at", name)?;
        let objects = self.objects.lock().unwrap();
        let (bytes, modified) = objects.get(name).ok_or_else(|| Error::Absent(name.into()))?;
        Ok(Listed { name: name.into(), bytes: bytes.len() as u64, modified_unix_ms: *modified })
    }
    fn remove(&self, name: &str) -> Result<(), Error> {
        self.call("removing", name)?;
        self.objects.lock().unwrap().remove(name);
        Ok(())
    }
    fn sweep(&self, prefix: &str, _before_unix_ms: i64) -> Result<(), Error> {
        self.call("sweeping", prefix)
    }
    fn location(&self) -> String {
        "memory".into()
    }
}
