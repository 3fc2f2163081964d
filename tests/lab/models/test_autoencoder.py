import pytest
import torch

import lit_share as ls
from lit_share.lab.data import PlacedImages
from lit_share.lab.models import Autoencoder, autoencoder

from ._trainer import trainer

# Lightning 2.6 flattens loaders in a way that newer PyTorch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
TIES = ls.Ties("encoder.*.weight", "decoder.*.weight.T")


@pytest.fixture
def data():
    return PlacedImages(canvas=8, n_train=200, n_val=70, n_test=30)


def test_it_takes_what_the_data_gives(data):
    images, _ = next(iter(data.train_dataloader()))
    restored = autoencoder(data, widths=(20,), lr=0.25)(images)
    assert restored.shape == images.shape


def test_code_has_the_last_width_and_decoder_mirrors_the_encoder():
    model = Autoencoder((1, 4, 3), widths=(9, 7, 2))
    x = torch.rand(5, 1, 4, 3)
    assert model.encoder(x).shape == (5, 2)
    for tie in TIES.find(model):
        assert len(tie.members) == 2
    assert len(TIES.find(model)) == 3


def test_code_and_output_are_linear_and_what_is_between_them_is_not():
    torch.manual_seed(0)
    model = Autoencoder((1, 4, 3), widths=(9, 2))
    x = torch.randn(200, 1, 4, 3)
    assert model.encoder(x).min() < 0
    assert model(x).min() < 0
    midpoint = (x[:100] + x[100:]) / 2
    assert not torch.allclose(model(midpoint), (model(x[:100]) + model(x[100:])) / 2, atol=1e-4)
    linear = Autoencoder((1, 4, 3), widths=(2,))
    torch.testing.assert_close(linear(midpoint), (linear(x[:100]) + linear(x[100:])) / 2)


def test_learns_to_restore_digits(data):
    torch.manual_seed(0)
    model = autoencoder(data, lr=0.01)
    run = trainer(max_epochs=20)
    [before] = run.validate(model, data.val_dataloader(), verbose=False)
    run.fit(model, datamodule=data)
    [after] = run.validate(model, data.val_dataloader(), verbose=False)
    variance = data.val_dataloader().dataset.tensors[0].var(dim=0).mean().item()
    assert after["val/mse"] < variance < before["val/mse"]  # better than the mean image


def test_measures_every_example_alike(data):
    """Batches are of 50 and 20: an average over batches would differ."""
    model = autoencoder(data)
    [results] = trainer().validate(model, data.val_dataloader(), verbose=False)
    x = data.val_dataloader().dataset.tensors[0]
    assert results == {"val/mse": pytest.approx((model(x) - x).square().mean().item(), rel=1e-5)}
    [results] = trainer().test(model, data.test_dataloader(), verbose=False)
    assert set(results) == {"test/mse"}


def test_hard_ties_make_the_decoder_the_transposed_encoder(data):
    model = autoencoder(data, widths=(20, 10))
    trainer(max_epochs=2, callbacks=[ls.Share(TIES)]).fit(model, datamodule=data)
    for i in range(2):
        encoder, decoder = (
            getattr(part, f"linear{i}").weight for part in (model.encoder, model.decoder)
        )
        assert torch.equal(encoder, decoder.T)
    assert ls.sharing_stats(model).unique == 64 * 20 + 20 * 10 + 20 + 10 + 20 + 64


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="widths is empty: name the outputs of at least one layer"):
        Autoencoder((1, 8, 8), widths=())


def test_comes_back_from_a_checkpoint(data, tmp_path):
    model = autoencoder(data, widths=(20, 10))
    run = trainer(max_epochs=1)
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = Autoencoder.load_from_checkpoint(
        tmp_path / "run.ckpt", map_location="cpu", weights_only=True
    )
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
