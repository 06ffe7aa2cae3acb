// Typed loads and stores. Two and four words must be aligned to their size, so that they never cross a page; they choose
// their memory bank once.
fn svm_load2(location: u32) -> vec2u { return bank_load2(location); }
fn svm_load4(location: u32) -> vec4u { return bank_load4(location); }
fn svm_store2(location: u32, value: vec2u) { bank_store2(svm_reach(location, 2u, SVM_SINK), value); }
fn svm_store4(location: u32, value: vec4u) { bank_store4(svm_reach(location, 4u, SVM_SINK), value); }

fn svm_load_i32(location: u32) -> i32 { return bitcast<i32>(svm_load(location)); }
fn svm_load_f32(location: u32) -> f32 { return bitcast<f32>(svm_load(location)); }
fn svm_load_vec2f(location: u32) -> vec2f { return bitcast<vec2f>(svm_load2(location)); }
fn svm_load_vec4f(location: u32) -> vec4f { return bitcast<vec4f>(svm_load4(location)); }
fn svm_store_i32(location: u32, value: i32) { svm_store(location, bitcast<u32>(value)); }
fn svm_store_f32(location: u32, value: f32) { svm_store(location, bitcast<u32>(value)); }
fn svm_store_vec2f(location: u32, value: vec2f) { svm_store2(location, bitcast<vec2u>(value)); }
fn svm_store_vec4f(location: u32, value: vec4f) { svm_store4(location, bitcast<vec4u>(value)); }
