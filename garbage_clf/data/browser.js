// The part of analysis.browser that runs in the page: one photo at a time, and a key for each answer.
// Text is always set as text, never as HTML.

function render({ model, el }) {
  const cards = new Map() // Number of a photo to what Python says about it
  const asked = new Set()

  const root = element('div', 'root')
  root.tabIndex = 0
  root.dataset.lmSuppressShortcuts = 'true' // JupyterLab's own keys stay quiet here
  const progress = element('div', 'progress')
  const photo = element('div', 'photo')
  const facts = element('div', 'facts')
  const main = element('div', 'main')
  const more = element('div', 'more')
  main.append(photo, facts)
  const keys = element('div', 'keys')
  const moves = element('div', 'moves')
  const message = element('div', 'message')
  message.setAttribute('role', 'status')
  root.append(progress, main, more, keys, moves, message)
  el.append(root)

  const total = () => model.get('total')
  let marks = [...model.get('marks')] // As the page knows them; Python's may be a few keys behind
  let unanswered = 0

  function tell(what) {
    unanswered += 1
    model.send(what)
  }

  function refresh() {
    if (!unanswered) marks = [...model.get('marks')]
    show()
  }

  function want(from) {
    const numbers = []
    for (let i = from; i < Math.min(from + 6, total()); i++) if (!asked.has(i)) numbers.push(i)
    numbers.forEach((i) => asked.add(i))
    if (numbers.length) model.send({ want: numbers })
  }

  function go(i) {
    if (!total()) return
    model.set('index', Math.max(0, Math.min(i, total() - 1)))
    model.save_changes()
    show()
  }

  function next(from) {
    const open = marks.findIndex((mark, i) => i > from && !mark)
    go(open < 0 ? from + 1 : open)
  }

  function mark(name) {
    const i = model.get('index')
    if (!total()) return
    marks[i] = name
    tell({ mark: i, name })
    next(i)
  }

  function askMore() {
    const card = cards.get(model.get('index'))
    if (!card || !card.has_more || card.pictures) return
    card.pictures = [element('div', 'nothing', '...')]
    model.send({ more: card.card })
    show()
  }

  function takeMore(answer, buffers) {
    const card = cards.get(answer.more)
    if (!card) return
    card.pictures = buffers.map((bytes, k) => picture(answer.captions[k], bytes))
    if (answer.error) card.pictures = [element('div', 'nothing', answer.error)]
    if (answer.more === model.get('index')) show()
  }

  function show() {
    const i = model.get('index')
    const marked = marks.filter((m) => m).length
    progress.textContent = total() ? `${i + 1} of ${total()}, ${marked} marked` : 'no photos'
    message.textContent = model.get('message')
    for (const node of keys.children) node.classList.toggle('photo-browser-chosen', node.dataset.name === marks[i])
    explain.hidden = true
    if (!total()) return photo.replaceChildren(), facts.replaceChildren(), more.replaceChildren()
    want(i)
    const card = cards.get(i)
    if (!card) return
    explain.hidden = !card.has_more
    more.replaceChildren(...(card.pictures || []))
    photo.replaceChildren(card.node)
    facts.replaceChildren(element('div', 'title', card.title), ...card.lines.map((line) => element('div', 'line', line)),
      ...card.bars.map(bar))
  }

  model.on('msg:custom', (card, buffers) => {
    if (card.answered) {
      unanswered -= 1
      return refresh()
    }
    if ('more' in card) return takeMore(card, buffers)
    card.node = element('div', 'nothing', card.error)
    if (buffers.length) {
      card.node = element('img', 'image')
      card.node.alt = card.title
      card.node.src = URL.createObjectURL(new Blob([buffers[0]], { type: 'image/jpeg' }))
      card.node.addEventListener('click', () => root.classList.toggle('photo-browser-large'))
    }
    cards.set(card.card, card)
    if (card.card === model.get('index')) show()
  })

  for (const [key, name] of model.get('answers')) {
    const node = button('key', '', () => mark(name))
    node.dataset.name = name
    node.append(element('kbd', 'kbd', key), document.createTextNode(` ${name}`))
    keys.append(node)
  }
  const explain = button('move', 'explain (e)', askMore)
  moves.append(
    button('move', '\u2190 back', () => go(model.get('index') - 1)),
    button('move', 'on \u2192', () => go(model.get('index') + 1)),
    button('move', 'undo (u)', () => tell({ undo: true })),
    explain)

  root.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const chosen = model.get('answers').find(([key]) => key === event.key.toLowerCase())
    if (chosen) mark(chosen[1])
    else if (event.key === 'ArrowLeft') go(model.get('index') - 1)
    else if (event.key === 'ArrowRight') go(model.get('index') + 1)
    else if (event.key.toLowerCase() === 'u') tell({ undo: true })
    else if (event.key.toLowerCase() === 'e') askMore()
    else return
    event.preventDefault()
    event.stopPropagation()
  })

  for (const name of ['index', 'marks', 'message']) model.on(`change:${name}`, refresh)
  show()
  return () => {
    for (const image of el.querySelectorAll('img')) URL.revokeObjectURL(image.src)
    cards.forEach((card) => card.node.src && URL.revokeObjectURL(card.node.src))
  }
}

export default { render }
