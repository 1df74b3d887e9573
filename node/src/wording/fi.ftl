voice-call = { $name } soittaa
video-call = { $name } soittaa videopuhelua
message =
    { $count ->
        [one] Viesti, lähettäjä { $name }
       *[other] { $count } viestiä, lähettäjä { $name }
    }
missed-call =
    { $count ->
        [one] Vastaamaton puhelu, soittaja { $name }
       *[other] { $count } vastaamatonta puhelua, soittaja { $name }
    }
contact-request = { $name } haluaa lisätä sinut yhteystietoihin
voicemail =
    { $count ->
        [one] Ääniviesti, lähettäjä { $name }
       *[other] { $count } ääniviestiä, lähettäjä { $name }
    }
file =
    { $count ->
        [one] { $name } lähettää sinulle tiedoston
       *[other] { $name } lähettää sinulle { $count } tiedostoa
    }
mail = Sähköposti: { $name }
self-test = Testi-ilmoitus on saapunut
notice = Uutta: { $name }
shown-on = { $event } (näkyy laitteessa { $device })
accept = Vastaa
decline = Hylkää
