"""Which reader builds which task of VTAB-1K."""

from karst_bench.data.builders.caltech101 import Caltech101
from karst_bench.data.builders.camelyon import Camelyon
from karst_bench.data.builders.cifar100 import Cifar100
from karst_bench.data.builders.clevr import Clevr
from karst_bench.data.builders.dmlab import Dmlab
from karst_bench.data.builders.dsprites import Dsprites
from karst_bench.data.builders.dtd import Dtd
from karst_bench.data.builders.eurosat import Eurosat
from karst_bench.data.builders.flowers102 import Flowers102
from karst_bench.data.builders.kitti import Kitti
from karst_bench.data.builders.pets import Pets
from karst_bench.data.builders.raw import RawReader
from karst_bench.data.builders.resisc45 import Resisc45
from karst_bench.data.builders.retinopathy import Retinopathy
from karst_bench.data.builders.smallnorb import SmallNorb
from karst_bench.data.builders.sun397 import Sun397
from karst_bench.data.builders.svhn import Svhn

READERS: dict[str, type[RawReader]] = {
    "cifar100": Cifar100,
    "caltech101": Caltech101,
    "dtd": Dtd,
    "flowers102": Flowers102,
    "pets": Pets,
    "svhn": Svhn,
    "sun397": Sun397,
    "camelyon": Camelyon,
    "eurosat": Eurosat,
    "resisc45": Resisc45,
    "retinopathy": Retinopathy,
    "clevr_count": Clevr,
    "clevr_distance": Clevr,
    "dmlab": Dmlab,
    "kitti_distance": Kitti,
    "dsprites_location": Dsprites,
    "dsprites_orientation": Dsprites,
    "smallnorb_azimuth": SmallNorb,
    "smallnorb_elevation": SmallNorb,
}
