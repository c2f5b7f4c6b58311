fn main() {
    for crd in sokovan::api::crds() {
        println!("---\n{}", serde_yaml::to_string(&crd).unwrap_or_default());
    }
}
