// What the widgets have in common in the page: elements, buttons, bars and pictures.
// Text is always set as text, never as HTML. Each widget's own file follows this one in the same module.

function maker(prefix) { // Makes elements whose classes begin with it
  function element(tag, name, text = '') {
    const node = document.createElement(tag)
    node.className = `${prefix}-${name}`
    node.textContent = text
    return node
  }
  function button(name, text, action) {
    const node = element('button', name, text)
    node.type = 'button'
    node.addEventListener('click', action)
    return node
  }
  return { element, button }
}

const { element, button } = maker('photo-browser')

function bar([name, share]) {
  const row = element('div', 'bar')
  const track = element('span', 'track')
  const fill = element('span', 'fill')
  fill.style.width = `${Math.round(100 * share)}%`
  track.append(fill)
  row.append(element('span', 'name', name), track, element('span', 'share', `${Math.round(100 * share)} %`))
  return row
}

function picture(caption, bytes) {
  const node = element('figure', 'figure')
  const image = element('img', 'small')
  image.alt = caption
  image.src = URL.createObjectURL(new Blob([bytes], { type: 'image/jpeg' }))
  image.addEventListener('click', () => node.classList.toggle('photo-browser-wide'))
  node.append(image, element('figcaption', 'caption', caption))
  return node
}
