"""Every data set Lossmith knows: what it is, where its home is, which files it has and how they are recognised.

The digests are those of the files as their official homes serve them. Where a home publishes MD5 sums (Fashion-MNIST,
CIFAR) the SHA-256 here belong to files with these sums.
"""

from __future__ import annotations

from lossmith.tasks.datasets.bundled import read_diabetes, read_digits
from lossmith.tasks.datasets.california import MEMBER, read_california
from lossmith.tasks.datasets.cifar import read_cifar10, read_cifar100
from lossmith.tasks.datasets.idx import read_mnist
from lossmith.tasks.datasets.records import Download, Source
from lossmith.tasks.datasets.svhn import read_svhn

_BYTES = "pixels 0 … 255; divide by 255"
_TABLE = "raw measurements; standardise with mean and standard deviation of the training rows"
_IDX = tuple(
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
_IDX_FILES = tuple((name, name.removesuffix(".gz")) for name in _IDX)
_CIFAR10 = (*(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)), "cifar-10-batches-bin/test_batch.bin")
_CIFAR100 = ("cifar-100-binary/train.bin", "cifar-100-binary/test.bin")


def _idx_downloads(*digests: str) -> tuple[Download, ...]:
    return tuple(Download(name, f"sha256:{digest}") for name, digest in zip(_IDX, digests, strict=True))


_ALL = (
    Source(
        name="digits",
        title="Optical recognition of handwritten digits, 8×8",
        rows=(1_797,),
        shape=(1, 8, 8),
        classes=10,
        licence="ships with scikit-learn (UCI, CC BY 4.0)",
        home="https://archive.ics.uci.edu/dataset/80",
        normalisation="pixels 0 … 16; divide by 16",
        read=read_digits,
    ),
    Source(
        name="diabetes",
        title="Diabetes progression after one year",
        rows=(442,),
        shape=(10,),
        classes=None,
        licence="ships with scikit-learn",
        home="https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html",
        normalisation=_TABLE,
        read=read_diabetes,
    ),
    Source(
        name="california",
        title="California housing: median house value of census blocks",
        rows=(20_640,),
        shape=(8,),
        classes=None,
        licence="CC BY 4.0 (figshare deposit of the StatLib archive)",
        home="https://www.dcc.fc.up.pt/~ltorgo/Regression/cal_housing.html",
        normalisation=f"{_TABLE}; the target is in $100,000",
        read=read_california,
        files=(("cal_housing.tgz", "cal_housing.csv", MEMBER, "cal_housing.data"),),
        base_url="https://ndownloader.figshare.com/files/",
        downloads=(
            Download(
                "5976036",
                "sha256:aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681",
                saved_as="cal_housing.tgz",
            ),
        ),
    ),
    Source(
        name="mnist",
        title="MNIST handwritten digits, 28×28 grey",
        rows=(60_000, 10_000),
        shape=(1, 28, 28),
        classes=10,
        licence="CC BY-SA 3.0",
        home="http://yann.lecun.com/exdb/mnist/",
        normalisation=_BYTES,
        read=read_mnist,
        files=_IDX_FILES,
        base_url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        downloads=_idx_downloads(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    Source(
        name="fashion_mnist",
        title="Fashion-MNIST clothes, 28×28 grey",
        rows=(60_000, 10_000),
        shape=(1, 28, 28),
        classes=10,
        licence="MIT",
        home="https://github.com/zalandoresearch/fashion-mnist",
        normalisation=_BYTES,
        read=read_mnist,
        files=_IDX_FILES,
        base_url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        downloads=_idx_downloads(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    Source(
        name="cifar10",
        title="CIFAR-10 objects, 32×32 colour",
        rows=(50_000, 10_000),
        shape=(3, 32, 32),
        classes=10,
        licence="none stated; cite Krizhevsky (2009)",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        normalisation=_BYTES,
        read=read_cifar10,
        files=tuple((name,) for name in _CIFAR10),
        base_url="https://www.cs.toronto.edu/~kriz/",
        downloads=(
            Download(
                "cifar-10-binary.tar.gz",
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                members=_CIFAR10,
            ),
        ),
    ),
    Source(
        name="cifar100",
        title="CIFAR-100 objects, 32×32 colour, fine labels",
        rows=(50_000, 10_000),
        shape=(3, 32, 32),
        classes=100,
        licence="none stated; cite Krizhevsky (2009)",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        normalisation=_BYTES,
        read=read_cifar100,
        files=tuple((name,) for name in _CIFAR100),
        base_url="https://www.cs.toronto.edu/~kriz/",
        downloads=(
            Download(
                "cifar-100-binary.tar.gz",
                "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                members=_CIFAR100,
            ),
        ),
    ),
    Source(
        name="svhn",
        title="Street View House Numbers, cropped digits, 32×32 colour",
        rows=(73_257, 26_032),
        shape=(3, 32, 32),
        classes=10,
        licence="non-commercial use only",
        home="http://ufldl.stanford.edu/housenumbers/",
        normalisation=_BYTES,
        read=read_svhn,
        files=(("train_32x32.mat",), ("test_32x32.mat",)),
        base_url="http://ufldl.stanford.edu/housenumbers/",
        downloads=(
            Download("train_32x32.mat", "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"),
            Download("test_32x32.mat", "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"),
        ),
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
