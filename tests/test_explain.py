"Explanations find what is planted, and refuse what they cannot explain"
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import sobel
from torch import nn

from garbage_clf.analysis.background import background_heat, heat_shares, mean_maps, parts_table
from garbage_clf.analysis.explain import grad_cam
from garbage_clf.analysis.explain_checks import (ANOTHER, cascade, curve_scores, faithfulness, map_correlations,
    probability_curves, random_maps, sanity_check)
from garbage_clf.analysis.foreground import (boxes, is_plausible, plain_background_mask, plain_masks, without_ground,
    without_thing)
from garbage_clf.analysis.occlusion import Window, occlusion, photo_inputs, photo_maps, plot_occlusion, starts
from garbage_clf.core import WorkbookError
from garbage_clf.data.images import load_pixels
from garbage_clf.data.inputs import ModelInputs
from garbage_clf.data.sample import sample_items
from garbage_clf.models.registry import build_model
from garbage_clf.train.fit import fit
from garbage_clf.train.recipes import get_recipe
from garbage_clf.train.run import load_model


class CornerNet(nn.Module):
    "Class 1 is: the upper left 16 x 16 pixels are red"
    def forward(self, x): # B x 3 x H x W
        corner = x[:,:,:16,:16].float().mean((2,3))/255 # B x 3
        red = corner[:,0]-corner[:,1] # B
        return torch.stack([-4*red,4*red], 1) # B x 2

def corner_photos(n=4, side=64):
    "Noise with a red corner"
    rng = torch.Generator().manual_seed(0)
    photos = torch.randint(90, 160, (n,3,side,side), generator=rng, dtype=torch.uint8)
    photos[:,:,:16,:16] = torch.tensor([255,0,0], dtype=torch.uint8).view(3, 1, 1)
    return photos

def edges(net, photos, classes, rest=()):
    "A method that does not ask the network"
    grey = photos.float().mean(1).numpy()
    return torch.from_numpy(np.hypot(sobel(grey, axis=1), sobel(grey, axis=2)))

ones = torch.ones(4, dtype=int)


# Occlusion

def test_heat_lies_where_the_model_reads():
    maps = occlusion(CornerNet(), corner_photos(), ones, window=Window(side=16, stride=8)).clamp(min=0)
    assert (maps[:,:24,:24].sum((1,2))/maps.sum((1,2))).min()>.95
    assert maps.amax((1,2)).min()>.2

def test_the_other_class_gains_what_this_one_loses():
    one,other = (occlusion(CornerNet(), corner_photos(), ones*c) for c in (1,0))
    assert torch.allclose(one, -other, atol=1e-5)

def test_every_pixel_is_covered():
    for length,side,stride in ((64,16,8),(65,16,8),(10,10,3),(10,3,3),(7,5,4)):
        covered = np.zeros(length)
        for start in starts(length, side, stride): covered[start:start+side] += 1
        assert covered.min()>=1 and start+side==length
    wide = corner_photos(2)[:,:,:40]
    assert torch.isfinite(occlusion(CornerNet(), wide, ones[:2], window=Window(side=9, stride=7))).all()

@pytest.mark.parametrize('name', ['mlp','vit_tiny_patch16_224'])
def test_networks_without_places(name):
    net = build_model(name, 2, pretrained=False, size=224).eval()
    photos = corner_photos(1, 224)
    with pytest.raises(WorkbookError, match='Grad-CAM needs'): grad_cam(net, photos, ones[:1])
    assert occlusion(net, photos, ones[:1], window=Window(side=112)).abs().max()>0

@pytest.mark.parametrize('window,message', [
    (Window(side=65), 'a window of 65 pixels does not fit photos of 64 x 64: choose 1 to 64'),
    (Window(side=0), 'does not fit'), (Window(side=8, stride=9), 'a stride of 9 pixels leaves gaps'),
    (Window(side=8, stride=0), 'stands still')])
def test_windows_that_do_not_fit(window, message):
    with pytest.raises(WorkbookError, match=message): occlusion(CornerNet(), corner_photos(), ones, window=window)


# Checks

def test_correlation_is_high_without_the_network_and_low_for_grad_cam():
    torch.manual_seed(0)
    net = build_model('efficientnet_lite0', 4, size=128).eval()
    photos = ModelInputs(load_pixels(sample_items(240).image[:8], 128)[0])
    nets = cascade(net, steps=2)
    blind = sanity_check(edges, nets, photos, torch.arange(8)%4)
    asked = sanity_check(grad_cam, nets, photos, torch.arange(8)%4)
    assert blind['mean'][1.]>.999 and blind['mean'][ANOTHER]<.9
    assert asked['mean'][0.]==1 and asked['mean'][1.]<.5

def test_cascade_leaves_the_network_alone():
    net = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    before = [p.clone() for p in net.parameters()]
    nets = cascade(net, steps=2)
    assert all(torch.equal(p, q) for p,q in zip(net.parameters(), before))
    assert list(nets)==[0.,.5,1.] and nets[0.] is net
    assert torch.equal(nets[.5][0].weight, net[0].weight) and not torch.equal(nets[.5][1].weight, net[1].weight)
    assert torch.equal(nets[1.][0].weight.flatten().sort().values, net[0].weight.flatten().sort().values)

def test_deletion_falls_faster_than_random():
    inputs = ModelInputs(corner_photos())
    table,curves = faithfulness({'occlusion':occlusion}, CornerNet(), inputs, ones)
    assert table.low['deletion','occlusion']>.1 # A blurred corner is as red as before: insertion shows nothing here
    assert torch.allclose(curves['deletion','occlusion'][:,0], curves['insertion','occlusion'][:,-1], atol=1e-5)

def test_a_map_upside_down_does_worse():
    inputs = ModelInputs(corner_photos())
    maps = photo_maps(occlusion, CornerNet(), inputs, ones)
    right = curve_scores(probability_curves(CornerNet(), inputs, ones, maps))
    wrong = curve_scores(probability_curves(CornerNet(), inputs, ones, -maps))
    assert (right<wrong-.1).all()
    with pytest.raises(WorkbookError, match="did you mean 'deletion'"):
        probability_curves(CornerNet(), inputs, ones, maps, 'deletions')

def test_a_constant_map_has_no_correlation():
    maps = random_maps(None, corner_photos(), ones)
    assert np.isnan(map_correlations(maps, maps*0)).all()
    assert map_correlations(maps, maps**3)==pytest.approx(1)


# Background

def disc_photo(cx=0., slope=30., noise=3., side=160):
    "A blue disc on a plain ground in uneven light, and its mask"
    y,x = np.mgrid[-1:1:side*1j,-1:1:side*1j]
    disc = (x-cx)**2+y**2<.2
    photo = np.where(disc[...,None], [70,110,180], (190+slope*x)[...,None]+[0,-5,-15])
    photo = photo+np.random.default_rng(0).normal(0, noise, photo.shape)
    return photo.clip(0, 255).astype('uint8'),disc

@pytest.mark.parametrize('options', [{}, dict(cx=.5), dict(slope=0), dict(slope=60), dict(side=320), dict(noise=0)])
def test_mask_of_a_disc(options):
    photo,disc = disc_photo(**options)
    mask,clean = plain_background_mask(photo)
    assert is_plausible(mask, clean)
    assert (mask&disc).sum()/(mask|disc).sum()>.85

def test_masks_that_are_not_believed():
    nothing = np.full((96,96,3), 180, 'uint8')
    everywhere = np.random.default_rng(0).integers(0, 255, (96,96,3)).astype('uint8')
    everywhere = everywhere.repeat(4, 0).repeat(4, 1) # Leaves
    for photo in (nothing,everywhere): assert not is_plausible(*plain_background_mask(photo))

def test_heat_of_planted_maps():
    pairs = [disc_photo(cx) for cx in (-.5,0,.5,.4)]
    photos = torch.from_numpy(np.stack([p for p,_ in pairs])).permute(0, 3, 1, 2)
    masks,plausible = plain_masks(photos)
    assert plausible.all()
    labels = pd.Series(list('abab'))
    table = background_heat(masks.float(), masks, labels)
    assert table.heat['all']==0 and table.gain_low['all']>0 and table.n.tolist()==[2,2,4]
    even = background_heat(torch.ones(masks.shape), masks, labels)
    assert even.heat['all']==even.area['all']==even.another['all']
    assert np.isnan(heat_shares(torch.zeros(masks.shape), masks)).all()
    one_class = background_heat(masks.float(), masks, pd.Series(list('aaaa')))
    assert one_class.index.tolist()==['a','all']
    with pytest.raises(WorkbookError, match='there are 1 maps'): background_heat(masks[:1].float(), masks[:1], labels[:1])

def test_thing_and_ground_apart():
    photo,disc = disc_photo(noise=0)
    photos = torch.from_numpy(photo).permute(2, 0, 1)[None]
    masks = torch.from_numpy(disc)[None]
    thing,ground = without_ground(photos, masks)[0],without_thing(photos, masks)[0]
    assert torch.equal(thing[:,masks[0]], photos[0][:,masks[0]]) and thing[:,0,0].tolist()==[124,116,104]
    assert torch.equal(ground[:,~masks[0]], photos[0][:,~masks[0]]) and ground[0,80,80]>150
    box = boxes(masks)[0]
    assert box[masks[0]].all() and box.sum()==box.any(0).sum()*box.any(1).sum()
    assert not boxes(masks*False).any()

def test_mean_maps_count_photos_alike():
    maps = torch.zeros(3, 8, 8)
    maps[0,:4],maps[1,4:] = 1,100
    found = mean_maps(maps, pd.Series(['a','a','b']))
    assert list(found)==['a'] and torch.allclose(found['a'], torch.ones(8, 8))


# Bad inputs

@pytest.fixture(scope='module')
def items(): return sample_items(240)

def test_runs_and_photos_that_cannot_be_explained(items, tmp_path):
    texts = fit(items, get_recipe('bow', epochs=1), tmp_path/'texts', device='cpu')
    with pytest.raises(WorkbookError, match='takes texts alone'): plot_occlusion(texts, items[:2])
    photos = fit(items, get_recipe('efficientnet-lite0-frozen', size=64, epochs=1), tmp_path/'photos', device='cpu')
    with pytest.raises(WorkbookError, match='gone.jpg'): photo_inputs(photos, items[:2].assign(image='gone.jpg'))
    with pytest.raises(WorkbookError, match='1 of 2 items have no photo'):
        photo_inputs(photos, items[:2].assign(image=[items.image[0],pd.NA]))
    with pytest.raises(WorkbookError, match='no items'): photo_inputs(photos, items[:0])
    with pytest.raises(WorkbookError, match='gone.jpg'): plot_occlusion(photos, items[:2].assign(image='gone.jpg'))

def test_parts_of_items_with_texts(items, tmp_path):
    run = fit(items, get_recipe('multimodal-fast', text='bow', size=64, epochs=1), tmp_path/'both', device='cpu')
    some = items[:12].reset_index(drop=True)
    inputs = photo_inputs(run, some)
    everything = torch.ones(12, 64, 64, dtype=torch.bool)
    table = parts_table(run, load_model(run), inputs, everything, some.label)
    assert table['items'].tolist()==[12]*4
    assert table.accuracy['whole photo']==table.accuracy['thing alone'] # All of it is foreground
    assert (table.low<=table.accuracy).all() and (table.accuracy<=table.high).all()
