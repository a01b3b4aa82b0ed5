"""Why pad 100? Because fc6 does not pad; 97 is the smallest padding that is enough for every image."""

from minifcn import fcn, models, nn

with nn.init.blank():  # only what the layers do to space matters here: draw no weights
    backbone = fcn.convolutionalize(models.vgg16(1000))
    net = fcn.FCN(backbone, 21, stride=8, padding=100)
    print(fcn.geometry.minimum_padding(net))
    try:
        fcn.FCN(backbone, 21, stride=32, padding=50)
    except fcn.geometry.GeometryError as error:
        print(error)
