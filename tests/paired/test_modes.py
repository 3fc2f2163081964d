import copy

import pytest

from lit_share.paired import Paired


def modes(module):
    return {name: each.training for name, each in module.named_modules()}


@pytest.mark.filterwarnings("ignore:.*module.s. in eval mode at the start of training")
@pytest.mark.parametrize("with_train", [False, True])
def test_children_switch_modes_as_they_do_alone(kit, with_train):
    class Noting(kit.Lit):
        def validation_step(self, batch, batch_idx):
            self.in_validation = modes(self)
            super().validation_step(batch, batch_idx)

    class Partly(Noting):
        def on_validation_model_eval(self):
            super().on_validation_model_eval()
            self.net[0].train()

    class AndBack(Partly):
        def on_validation_model_train(self):
            self.net[1].train()

    first = AndBack if with_train else Partly
    children = {"a": first(seed=1), "b": Noting(seed=2)}
    children["b"].net[1].eval()
    pair = Paired(**copy.deepcopy(children))
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    trainer = kit.fit(pair, loaders, loaders, num_sanity_val_steps=0, max_epochs=1)
    for name, child in children.items():
        kit.fit(child, loaders[name], loaders[name], num_sanity_val_steps=0, max_epochs=1)
        own = getattr(pair, name)
        assert own.in_validation == child.in_validation
        assert modes(own) == modes(child)
        kit.assert_same(own.state_dict(), child.state_dict())
    assert pair.a.in_validation["net.0"]
    assert not pair.a.in_validation["net.1"]
    assert not pair.b.in_validation["net.0"]
    assert pair.a.net[3].training is not with_train
    assert pair.training
    trainer.validate(pair, loaders, verbose=False)


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_modes_of_tests_and_predictions(kit, stage):
    class Dropping(kit.Lit):
        def test_step(self, batch, batch_idx):
            self.seen = modes(self)
            super().test_step(batch, batch_idx)

        def predict_step(self, batch, batch_idx):
            self.seen = modes(self)
            return super().predict_step(batch, batch_idx)

        def on_test_model_eval(self):
            self.net.eval()

        def on_predict_model_eval(self):
            self.net.eval()

    pair = Paired(a=Dropping(), b=kit.Lit())
    loaders = {"a": kit.loader(1), "b": kit.loader(2)}
    getattr(kit.trainer(), stage)(pair, loaders)
    assert pair.a.seen[""]
    assert not pair.a.seen["net.1"]
    assert all(modes(pair).values())
