"""What LlamaIndex expects of each kind of part: a subclass fills the fixtures and inherits the tests."""
