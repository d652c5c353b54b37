"""ChatCMT: LangChain's standard unit and integration suites, on the bundled model and on a tiny Qwen."""

from __future__ import annotations

import pytest
from caller import caller
from cmt_memory import CMTMemoryStore, CMTModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from models import DOCUMENTS, QUESTION, model

from langchain_cmt import ChatCMT


@pytest.fixture(scope="module")
def bundled():
    return CMTModel.from_llm("cmt-tiny")


@pytest.fixture(scope="module")
def stores(bundled, tmp_path_factory):
    made = {}
    for name, of in (("bundled", bundled), ("qwen", model())):
        made[name] = CMTMemoryStore(tmp_path_factory.mktemp(name), of)
        made[name].add_documents(DOCUMENTS)
    yield made
    for store in made.values():
        store.close()


class OnBundled:
    @pytest.fixture(autouse=True)
    def _models(self, bundled, stores):
        self.params = {"model": bundled}
        self.remembering = ChatCMT(store=stores["bundled"], max_tokens=16)

    @property
    def chat_model_class(self):
        return ChatCMT

    @property
    def chat_model_params(self):
        return self.params

    @property
    def has_tool_calling(self):
        return False  # the template of cmt-tiny has no place for tools, and bind_tools says so

    @property
    def has_structured_output(self):
        return False  # which goes through tools

    @property
    def supports_model_override(self):
        return False  # a local LM is loaded when the chat model is made

    @property
    def supported_usage_metadata_details(self):
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream=False):
        if not stream:
            return self.remembering.invoke(QUESTION)
        whole = None
        for chunk in self.remembering.stream(QUESTION):
            whole = chunk if whole is None else whole + chunk
        return whole


class OnQwen(OnBundled):
    @pytest.fixture(autouse=True)
    def _models(self, stores):
        self.params = {"model": model()}
        self.remembering = ChatCMT(store=stores["qwen"], max_tokens=16)


class TestUnitOnBundled(OnBundled, ChatModelUnitTests):
    pass


class TestIntegrationOnBundled(OnBundled, ChatModelIntegrationTests):
    pass


class WithTools(OnQwen):
    @property
    def has_tool_calling(self):
        return True

    @property
    def has_structured_output(self):
        return True


class TestUnitOnQwen(WithTools, ChatModelUnitTests):
    pass


class TestIntegrationOnQwen(WithTools, ChatModelIntegrationTests):
    """On an LM that was trained, in seconds, to call the suite's tools."""

    @pytest.fixture(autouse=True)
    def _models(self, stores):
        self.params = {"model": caller()}
        self.remembering = ChatCMT(store=stores["qwen"], max_tokens=16)
